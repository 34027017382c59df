"""Request bodies. They are skipped, because no endpoint uses one. Pure."""

import re

from echo.http.request import MAX_BODY_BYTES, BadRequest, parse_fields

MAX_LINE_BYTES = 8192  # a chunk's size with its extension, or a trailer field
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~\x80-\xff]*)?")


class SizedBody:
    """Skips a body of a known length in bytes."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.skipped = 0  # bytes of data so far

    def skip(self, data: bytes) -> bytes | None:
        """Return the bytes after the body, or None while the body has not ended."""
        self.skipped += min(self.left, len(data))
        if len(data) < self.left:
            self.left -= len(data)
            return None
        return data[self.left :]


class ChunkedBody:
    """Skips a chunked body and its trailer (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self.skipped = 0
        self.line = b""  # received so far
        self.data = 0  # bytes of this chunk not received yet
        self.total = 0  # bytes, without line ends
        self.take = self.take_size  # parses the next line
        self.trailer = ""

    def skip(self, data: bytes) -> bytes | None:
        """Like `SizedBody.skip`. Raises BadRequest."""
        while True:
            if self.data:
                skipped = min(self.data, len(data))
                data, self.data = data[skipped:], self.data - skipped
                self.skipped += skipped
            line, end, rest = (self.line + data).partition(b"\r\n")
            if not end:
                self.line = line
                if len(line) > MAX_LINE_BYTES or (self.take == self.take_end and line not in (b"", b"\r")):
                    raise BadRequest(400, "a chunk is malformed (RFC 9112, 7.1)")
                return None
            self.line, data = b"", rest
            self.total += len(line)  # also of extensions and trailers
            if self.total > MAX_BODY_BYTES:
                raise BadRequest(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
            if self.take(line):
                return data

    def take_size(self, line: bytes) -> bool:
        """Parse the line before a chunk's data; return whether the body has ended. Raises BadRequest."""
        match = CHUNK_SIZE.fullmatch(line)
        if not match:
            raise BadRequest(400, "the size of a chunk is malformed (RFC 9112, 7.1)")
        self.data = int(match[1], 16)
        self.total += self.data
        self.take = self.take_end if self.data else self.take_trailer
        return False

    def take_end(self, line: bytes) -> bool:
        """Check the line end after a chunk's data."""
        if line:
            raise BadRequest(400, "a chunk is longer than its size")
        self.take = self.take_size
        return False

    def take_trailer(self, line: bytes) -> bool:
        """Collect a trailer field, or end the body at the empty line."""
        if line:
            self.trailer += "\r\n" + line.decode("latin-1")
        else:
            parse_fields(self.trailer)
        return not line
