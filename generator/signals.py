"""Signals, which the generator receives between two writes."""

import os
import select
import signal

STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
SIGNALS = STOP | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


class Signals:
    """A receiver of signals. The caller blocks SIGNALS first, so that none is lost during the start.

    It uses a pipe, because CPython's sigtimedwait returns garbage after SIGSTOP and SIGCONT or a frozen cgroup.
    """

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # Python writes each signal's number into the pipe
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def wait(self, seconds: float) -> set[signal.Signals]:
        """Return the signals received within `seconds`, each once."""
        ready, _, _ = select.select([self.reader], [], [], max(0, seconds))
        return set(map(signal.Signals, os.read(self.reader, 65536))) if ready else set()
