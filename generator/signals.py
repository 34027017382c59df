"""Signals, received between numbers."""

import os
import select
import signal

STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
SIGNALS = STOP | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


class Signals:
    """Receives signals through a pipe. Block SIGNALS before, so that none is lost during the start.

    Not by sigtimedwait: after a stop and continue (SIGSTOP, a frozen cgroup) CPython returns garbage from it.
    """

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # Python writes each signal's number into the pipe
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def wait(self, seconds: float) -> set[signal.Signals]:
        """Return the signals that came, each once; none if none comes in time."""
        ready, _, _ = select.select([self.reader], [], [], max(0, seconds))
        return set(map(signal.Signals, os.read(self.reader, 65536))) if ready else set()
