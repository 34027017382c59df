"""Signals, received between numbers."""

import os
import select
import signal
from collections import deque
from types import FrameType

STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
SIGNALS = STOP | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


class Signals:
    """Collects signals; block SIGNALS before, so that none is lost during the start.

    Not by sigtimedwait: after a stop and continue (SIGSTOP, a frozen cgroup) CPython returns garbage from it.
    """

    def __init__(self) -> None:
        self.received: deque[signal.Signals] = deque()
        self.reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number))

    def wait(self, seconds: float) -> signal.Signals | None:
        """Return the next signal, or None if none comes in time."""
        if not self.received and seconds > 0 and select.select([self.reader], [], [], seconds)[0]:
            os.read(self.reader, 4096)
        return self.received.popleft() if self.received else None
