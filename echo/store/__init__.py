"""The data folder as its readers see it: segments, whole lines, change notice.

`DataFolder(path).refresh()` returns the current `Segment`, or raises `NotReady` with the reason. A segment's bytes up
to `size` never change, in any copy of it. A reader at a position:

- below `size`: reads `lines`, or `read` for any bytes. OSError means that it can no longer be read: it is gone.
- at `size`, and `next` is None: waits.
- at `size`, and `next` is set: goes on at its beginning. If `gap`, numbers were lost in between.
- beyond `size`, and `next` is set: is gone.

The writer names the files, see `names`. A plain file at `path` is a stream of its own: it begins at 0 and gets another
name whenever it is replaced, or seen to be shorter or to end in other bytes than before. Appending is all that is safe.
"""

from echo.store.folder import DataFolder, Place
from echo.store.names import SegmentName, parse
from echo.store.notifier import Notifier
from echo.store.segment import MAX_LINE_BYTES, NotReady, Segment, State

__all__ = ["MAX_LINE_BYTES", "DataFolder", "NotReady", "Notifier", "Place", "Segment", "SegmentName", "State", "parse"]
