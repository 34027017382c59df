"""What the programs write, on supervisord's stdout and stderr: each line with its program's name."""

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

from supervisor import events
from supervisor.states import SIGNALLABLE_STATES

LONGEST = 65536  # bytes of a line; a longer one is broken


class Output(io.RawIOBase):
    """Relays programs with stdout_events_enabled and stderr_events_enabled; a stream for supervisord's own log."""

    def __init__(self, logger: Any) -> None:
        self.unfinished: dict[tuple[str, int], bytes] = {}  # by program and file descriptor
        self.dropped = 0
        for handler in (each for each in logger.handlers if getattr(each, "stream", None) is sys.stdout):
            handler.stream, handler.fmt = self, "supervisord | %(levelname)s %(message)s\n"
        events.subscribe(events.ProcessLogEvent, self.on_log)
        events.subscribe(events.ProcessStateEvent, self.on_state)

    def on_log(self, event: Any) -> None:
        self.relay(event.process.config.name, 1 if event.channel == "stdout" else 2, event.data)

    def on_state(self, event: Any) -> None:
        """The last words of a program that ended may lack a line end."""
        for fd in () if event.process.state in SIGNALLABLE_STATES else (1, 2):
            if self.unfinished.get((event.process.config.name, fd)):
                self.relay(event.process.config.name, fd, b"\n")

    def relay(self, name: str, fd: int, data: bytes) -> None:
        *lines, self.unfinished[name, fd] = (self.unfinished.get((name, fd), b"") + data).split(b"\n")
        self.write(b"".join(b"%s | %s\n" % (name.encode(), line) for line in lines), fd)
        if len(self.unfinished[name, fd]) > LONGEST:
            self.relay(name, fd, b"\n")

    def write(self, data: Any, fd: int = 1) -> None:
        """Drops what nobody reads: blocked in a write, or ended by it, supervisord would be of no use."""
        if self.dropped:
            data, self.dropped = b"\nsupervisord | %d bytes of output dropped: nobody read\n" % self.dropped + data, 0
        for start in range(0, len(data), select.PIPE_BUF):
            with suppress(OSError):
                if select.select([], [fd], [], 0)[1] and os.write(fd, data[start : start + select.PIPE_BUF]):
                    continue
            self.dropped += len(data) - start
            break
