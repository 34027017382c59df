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

    def wait(self, seconds: float) -> signal.Signals | None:
        """Return the next signal, or None if none comes in time."""
        ready, _, _ = select.select([self.reader], [], [], max(0, seconds))
        return signal.Signals(os.read(self.reader, 1)[0]) if ready else None
