"""What the programs write, on supervisord's stdout and stderr: each line with its program's name."""

import io
import os
import select
import sys
from typing import Any

from supervisor import events


class Output(io.RawIOBase):
    """Relays programs with stdout_events_enabled and stderr_events_enabled; a stream for supervisord's own log."""

    def __init__(self, logger: Any) -> None:
        self.unfinished: dict[tuple[str, int], bytes] = {}  # by program and file descriptor
        self.dropped = 0
        for handler in logger.handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.stream, handler.fmt = self, "supervisord | %(levelname)s %(message)s\n"
        events.subscribe(events.ProcessLogEvent, self.relay)

    def relay(self, event: Any) -> None:
        name, fd = event.process.config.name, 1 if event.channel == "stdout" else 2
        *lines, self.unfinished[name, fd] = (self.unfinished.get((name, fd), b"") + event.data).split(b"\n")
        self.write(b"".join(b"%s | %s\n" % (name.encode(), line) for line in lines), fd)

    def write(self, data: Any, fd: int = 1) -> None:
        """Drops what nobody reads: blocked in a write, supervisord would not hear SIGTERM."""
        if self.dropped:
            data, self.dropped = b"\nsupervisord | %d bytes of output dropped: nobody read\n" % self.dropped + data, 0
        for start in range(0, len(data), select.PIPE_BUF):
            if not select.select([], [fd], [], 0)[1]:
                self.dropped += len(data) - start
                break
            os.write(fd, data[start : start + select.PIPE_BUF])
