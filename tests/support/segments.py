"""A writer for tests that makes segments as the generator does, step by step."""

from pathlib import Path

from echo.store import SegmentName

STREAM, OTHER = "5f3a9c21", "0a0b0c0d"


class Writer:
    """A writer that appends to segments and begins new ones."""

    def __init__(self, path: Path, stream: str = STREAM, base: int = 0) -> None:
        self.path = path
        self.name = SegmentName(stream, base)
        self.size = 0

    @property
    def file(self) -> Path:
        return self.path.with_name(self.name.file_name(self.path.name))

    @property
    def end(self) -> int:
        """The offset in the stream after the last byte."""
        return self.name.base + self.size

    def append(self, lines: bytes) -> None:
        with self.file.open("ab") as file:
            file.write(lines)
        self.size += len(lines)
        if not self.path.is_symlink():
            self.link()

    def rotate(self, lines: bytes, gap: int = 0, stream: str = "") -> None:
        base = 0 if stream else self.name.base + self.size + gap
        self.name, self.size = SegmentName(stream or self.name.stream, base), len(lines)
        self.file.write_bytes(lines)
        self.link()

    def link(self) -> None:
        new = self.path.with_name("data.new")
        new.symlink_to(self.file.name)
        new.replace(self.path)
