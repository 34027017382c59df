"""The log on stdout and stderr: each line with its program's name, through a bounded buffer that never blocks."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import select
import stat
import time
from contextlib import suppress
from typing import Any

from supervisor import loggers
from supervisor.dispatchers import POutputDispatcher, stripEscapes

BUFFER_BYTES = 2**18  # what is more waits in the pipes of the programs, which slows them down
MAX_LINE_BYTES = 2**16  # a longer line is broken
PATIENCE_SECONDS = 5.0  # lines are dropped once nobody has read for so long
FLUSH_SECONDS = 1.0  # at the end


F_SETPIPE_SZ = 1031  # of Linux; fcntl has it since Python 3.10


class Stream:
    """A buffer of whole lines before a file descriptor."""

    def __init__(self, fd: int, format: Format) -> None:
        self.fd, self.format, self.most = fd, format, select.PIPE_BUF  # bytes of one write
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            with suppress(OSError):  # a pipe of another user; never a flag on fd itself: others may share it
                fcntl.fcntl(fd, F_SETPIPE_SZ, BUFFER_BYTES)
                self.fd, self.most = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK), BUFFER_BYTES
        self.buffer = bytearray()
        self.read_at = 0.0  # monotonic: when the buffer was empty, or somebody read
        self.dropping = False
        self.dropped = self.dropped_before = 0  # lines

    def full(self) -> bool:
        return len(self.buffer) >= BUFFER_BYTES and not self.dropping

    def add(self, lines: bytes | bytearray) -> None:
        if self.dropping:
            self.dropped += lines.count(b"\n")
        else:
            self.buffer += lines

    def drain(self, now: float) -> None:
        """Write what can be written without waiting. PIPE_BUF bytes never block where select says that some can be."""
        if not self.buffer:
            self.read_at = now
        while self.buffer and (self.most > select.PIPE_BUF or select.select([], [self.fd], [], 0)[1]):
            try:
                with memoryview(self.buffer) as view:
                    written = os.write(self.fd, view[: self.most])
                del self.buffer[:written]
            except BlockingIOError:
                break
            except OSError:  # the reader has gone, so nobody can be told either
                self.buffer.clear()
            self.read_at = now
            if self.dropping:
                self.dropping = False
                lost, self.dropped_before = self.dropped - self.dropped_before, self.dropped
                text = f"dropped {lost} lines of output: nobody read for {PATIENCE_SECONDS:g} s"
                self.add(self.format.lines("supervisord", "stdout", text.encode() + b"\n", "WARN"))
        if self.full() and now - self.read_at >= PATIENCE_SECONDS:
            self.dropping = True

    def close(self) -> None:
        """Wait for the reader, for a short time."""
        now = time.monotonic()
        end = now + FLUSH_SECONDS
        self.drain(now)
        while self.buffer and not self.dropping and now < end:
            select.select([], [self.fd], [], end - now)
            now = time.monotonic()
            self.drain(now)
        if self.most > select.PIPE_BUF:
            os.close(self.fd)


class Format:
    """Lines as text or JSON, with or without the time."""

    def __init__(self, json: bool, time: bool) -> None:
        self.json, self.time = json, time

    def lines(self, name: str, channel: str, data: bytes, level: str = "") -> bytes | bytearray:
        """`data` is whole lines."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"
        now = now if self.time else ""
        if not self.json:
            prefix = f"{now + ' ' if now else ''}{name} | {level + ' ' if level else ''}".encode()
            lines = bytearray(prefix)
            lines += data.replace(b"\n", b"\n" + prefix)
            del lines[-len(prefix) :]
            return lines
        head = {**({"time": now} if now else {}), "program": name, "stream": channel}
        head.update({"level": level} if level else {})
        texts = data[:-1].decode(errors="replace").split("\n")
        return "".join(json.dumps({**head, "message": text}, ensure_ascii=False) + "\n" for text in texts).encode()


class Output:
    """Both streams; one, if both are the same file, so that lines do not mix."""

    def __init__(self, format: Format) -> None:
        self.format = format
        one, two = os.fstat(1), os.fstat(2)
        stdout = Stream(1, format)
        same = (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
        self.streams = {1: stdout, 2: stdout if same else Stream(2, format)}

    def pending(self) -> list[Stream]:
        return [stream for stream in set(self.streams.values()) if stream.buffer]

    def dropped(self) -> int:
        return sum(stream.dropped for stream in set(self.streams.values()))


class LogHandler(loggers.Handler):
    """Brings supervisord's own log to stdout."""

    def __init__(self, output: Output, level: int) -> None:
        super().__init__()
        self.output, self.level = output, level

    def emit(self, record: Any) -> None:
        fields = record.asdict()
        data = fields["message"].encode("utf-8", "replace") + b"\n"
        stream = self.output.streams[1]
        stream.add(self.output.format.lines("supervisord", "stdout", data, fields["levelname"]))
        stream.drain(time.monotonic())

    def flush(self) -> None:
        pass

    close = remove = reopen = flush


class Relay(POutputDispatcher):
    """Brings one channel of a program to a stream, if it has one, and shows each line to a watch, if there is one."""

    stream: Stream | None = None
    watch: Any = None
    unfinished = b""
    ended = False  # what is left in the pipe of an ended program is read even if the buffer is full

    def readable(self) -> bool:
        return not self.closed and (self.ended or not (self.stream and self.stream.full()))

    def handle_read_event(self) -> None:
        if self.readable():  # else supervisord was registered for it still, and unregisters now
            super().handle_read_event()

    def _log(self, data: bytes) -> None:
        super()._log(data)
        if self.childlog is not self.normallog or not data:
            return  # in capture mode
        data = self.unfinished + data
        end = data.rfind(b"\n") + 1
        if len(data) - end > MAX_LINE_BYTES:
            data += b"\n"
            end = len(data)
        self.unfinished = data[end:]
        if end:
            self.relay(data[:end])

    def relay(self, lines: bytes) -> None:
        if self.watch:
            self.watch(lines)
        if self.stream:
            lines = stripEscapes(lines) if self.process.config.options.strip_ansi else lines
            self.stream.add(self.stream.format.lines(self.process.config.name, self.channel, lines))
            self.stream.drain(time.monotonic())

    def finish(self) -> None:
        """The last words of a program may lack a line end."""
        if self.unfinished:
            self.relay(self.unfinished + b"\n")
            self.unfinished = b""
