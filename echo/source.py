"""Where the numbers come from: a file, or another echo."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from echo.datafile import DataFile, Generation, Snapshot
from echo.settings import Settings
from echo.spool import Spool
from echo.watch import Watch


class Source(Protocol):
    """What those who read are given."""

    current: Generation | None
    grown: int  # bytes that came since the start, in all generations
    turns: int  # how often a generation took another's place

    def look(self) -> Snapshot: ...  # as it is now; raises NotReady
    def find(self, name: str) -> Generation | None: ...  # one that can still be read


class Feed(Protocol):
    """What tells that there is more."""

    @property
    def how(self) -> str: ...  # in a word
    @property
    def via(self) -> Sequence[str]: ...  # what the numbers came through (RFC 9110, 7.6.3)
    def reopen(self) -> None: ...  # begin anew, at SIGHUP
    def unready(self) -> str: ...  # why what there is is not to be served yet, or nothing
    def remark(self) -> str: ...  # what else /readyz should say
    def report(self) -> Mapping[str, object] | None: ...  # how it goes, for /status
    async def awaited(self, name: str) -> Generation | None: ...  # one that is yet to come here; raises NotReady
    async def run(self, look: Callable[[], bool]) -> None: ...  # calls `look` each time, until cancelled


def open_source(settings: Settings) -> tuple[Source, Feed]:
    """Raises OSError, which says what cannot be used."""
    if isinstance(settings.source, Path):
        file = DataFile(settings.source)
        return file, Watch(file)
    from echo.mirror import Mirror  # here, for what it stands on takes longer to load than all of echo

    spool = Spool(settings.spool)
    return spool, Mirror(settings, spool)
