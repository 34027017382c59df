"""The log on stdout and stderr. Each line has its program's name. A bounded buffer keeps writes from blocking."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import select
import stat
import time
from contextlib import suppress
from typing import Any, Callable, Sequence, Union

from supervisor import loggers
from supervisor.dispatchers import POutputDispatcher, stripEscapes

BUFFER_BYTES = 2**18  # above this, programs are not read; their pipes fill and slow them down
MAX_LINE_BYTES = 2**16  # longer lines are split
MAX_CHUNKS = 512  # per write; Linux allows 1024
NO_READER_SECONDS = 5.0  # without a reader for this long, whole lines are dropped
FLUSH_SECONDS = 1.0  # wait at exit, while nothing reads
F_SETPIPE_SZ = 1031  # Linux; Python's fcntl has it since 3.10
Chunk = Union[bytes, memoryview]

bytes(2**23)  # after freeing a buffer of this size, glibc reuses smaller ones instead of asking the kernel for each


class Stream:
    """A buffer of whole lines in front of a file descriptor."""

    def __init__(self, fd: int, format: Format) -> None:
        self.fd, self.format, self.never_blocks = fd, format, False
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            # O_NONBLOCK on fd itself would affect every process that shares it. The pipe may be another user's.
            with suppress(OSError):
                fcntl.fcntl(fd, F_SETPIPE_SZ, BUFFER_BYTES)
                self.fd, self.never_blocks = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK), True
        self.chunks: list[Chunk] = []
        self.size = 0  # bytes in the chunks
        self.read_at = 0.0  # monotonic time when the buffer was last empty, or last read from
        self.dropping = False
        self.dropped = self.reported = 0  # lines

    def full(self) -> bool:
        return self.size >= BUFFER_BYTES and not self.dropping

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Buffer whole lines. While dropping, count them instead."""
        if self.dropping:
            self.dropped += sum(bytes(chunk).count(b"\n") for chunk in chunks)
        else:
            self.chunks += chunks
            self.size += sum(map(len, chunks))

    def drain(self, now: float) -> None:
        """Write as much as possible without blocking."""
        if not self.chunks:
            self.read_at = now
        while self.chunks and (self.never_blocks or select.select([], [self.fd], [], 0)[1]):
            try:
                self._remove(self._write())
            except BlockingIOError:
                break
            except OSError:  # the reader closed the pipe
                self._remove(self.size)
            self.read_at = now
            if self.dropping:
                self.dropping = False
                lost, self.reported = self.dropped - self.reported, self.dropped
                text = f"dropped {lost} lines of output: no reader for {NO_READER_SECONDS:g} s"
                self.add([self.format.line("supervisord", "stdout", text, "WARN")])
        if self.full() and now - self.read_at >= NO_READER_SECONDS:
            self.dropping = True

    def _write(self) -> int:
        """Write once; return the bytes written. Without O_NONBLOCK, select only promises room for PIPE_BUF bytes."""
        if self.never_blocks:
            return os.writev(self.fd, self.chunks[:MAX_CHUNKS])
        return os.write(self.fd, self.chunks[0][: select.PIPE_BUF])

    def _remove(self, count: int) -> None:
        """Remove the first `count` bytes from the buffer."""
        self.size -= count
        whole = 0
        while whole < len(self.chunks) and count >= len(self.chunks[whole]):
            count -= len(self.chunks[whole])
            whole += 1
        del self.chunks[:whole]
        if count:
            self.chunks[0] = memoryview(self.chunks[0])[count:]

    def close(self) -> None:
        """Flush the buffer while the reader reads, for at most NO_READER_SECONDS."""
        now = self.read_at = time.monotonic()
        end = now + NO_READER_SECONDS
        self.drain(now)
        while self.chunks and not self.dropping and now < min(end, self.read_at + FLUSH_SECONDS):
            select.select([], [self.fd], [], FLUSH_SECONDS)
            now = time.monotonic()
            self.drain(now)
        if self.never_blocks:
            os.close(self.fd)


class Format:
    """The format of log lines: text or JSON, with or without the time."""

    def __init__(self, json: bool, time: bool) -> None:
        self.json, self.time = json, time

    def now(self) -> str:
        """Return the time (RFC 3339, UTC), or an empty string without `log_time`."""
        if not self.time:
            return ""
        return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"

    def prefix(self, name: str) -> bytes:
        """Return the start of each line of text."""
        return f"{self.now()} {name} | ".lstrip().encode()

    def line(self, name: str, channel: str, text: str, level: str = "") -> bytes:
        if not self.json:
            return self.prefix(name) + f"{level} {text}\n".lstrip(" ").encode("utf-8", "replace")
        fields = {"time": self.now(), "program": name, "stream": channel, "level": level}
        fields = {key: value for key, value in fields.items() if value}
        return (json.dumps({**fields, "message": text}, ensure_ascii=False) + "\n").encode("utf-8", "replace")


class Output:
    """The streams for stdout and stderr. If both are the same file, they share one stream so that lines do not mix."""

    def __init__(self, format: Format) -> None:
        one, two = os.fstat(1), os.fstat(2)
        stdout = Stream(1, format)
        same = (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
        self.streams = {1: stdout, 2: stdout if same else Stream(2, format)}

    def pending(self) -> list[Stream]:
        return [stream for stream in set(self.streams.values()) if stream.chunks]

    def dropped(self) -> int:
        return sum(stream.dropped for stream in set(self.streams.values()))


class LogHandler(loggers.Handler):
    """Writes supervisord's own log to stdout."""

    def __init__(self, output: Output, level: int) -> None:
        super().__init__()
        self.stream, self.level = output.streams[1], level

    def emit(self, record: Any) -> None:
        fields = record.asdict()
        for text in fields["message"].split("\n"):
            self.stream.add([self.stream.format.line("supervisord", "stdout", text, fields["levelname"])])
        self.stream.drain(time.monotonic())

    def flush(self) -> None:
        pass

    close = remove = reopen = flush


class Relay(POutputDispatcher):
    """Copies one channel of a program to a stream and to a log check, where there are any."""

    stream: Stream | None = None
    watch: Callable[[bytes], None] | None = None
    unfinished = b""  # the last line so far; in a text log, with its prefix
    ended = False  # after the program's end, its pipe is read even if the buffer is full

    def readable(self) -> bool:
        return not self.closed and (self.ended or not (self.stream and self.stream.full()))

    def handle_read_event(self) -> None:
        if self.readable():  # a full buffer: supervisord unregisters the pipe in its next pass
            super().handle_read_event()

    def _log(self, data: bytes) -> None:
        super()._log(data)
        if self.childlog is not self.normallog or not data:
            return  # capture mode
        if self.watch:
            self.watch(data)
        if self.stream:
            self._relay(self.stream, stripEscapes(data) if self.process.config.options.strip_ansi else data)
            if len(self.unfinished) > MAX_LINE_BYTES:
                self.finish()

    def _relay(self, stream: Stream, data: bytes) -> None:
        stream.add((self._lines if stream.format.json else self._text)(stream.format, data))
        stream.drain(time.monotonic())

    def _text(self, format: Format, data: bytes) -> list[Chunk]:
        """Return the block with prefixes. One replace is several times as fast as a loop over lines."""
        prefix = format.prefix(self.process.config.name)
        text = data.replace(b"\n", b"\n" + prefix)
        end = text.rfind(b"\n") + 1
        line, rest = self.unfinished or prefix, text[end:]
        if not end:
            self.unfinished = line + rest
            return []
        self.unfinished = rest if len(rest) > len(prefix) else b""
        return [line, memoryview(text)[:end]]

    def _lines(self, format: Format, data: bytes) -> list[Chunk]:
        *lines, self.unfinished = (self.unfinished + data).split(b"\n")
        name = self.process.config.name
        return [format.line(name, self.channel, line.decode(errors="replace")) for line in lines]

    def finish(self) -> None:
        """End the last line, which may lack a line end."""
        if self.stream and self.unfinished:
            self._relay(self.stream, b"\n")
