"""The reader's side of the data folder: segments, whole lines and change notification.

`DataFolder(path).refresh()` returns the current `Segment`, or raises `NotReady` with the reason. A segment's bytes up
to `size` never change, in any copy of it. A reader's next step depends on its position in the segment:

- Below `size`: read with `lines`, or `read` for any bytes. OSError means that the segment is gone.
- At `size` while `next` is None: wait.
- At `size` when `next` is set: continue at the start of `next`. If `gap`, numbers between the two were lost.
- Beyond `size` when `next` is set: the position is gone.

The writer names the segments (see `names`). A plain file at `path` is a stream of its own, which begins at 0. It gets
a new name when it is replaced, gets shorter or ends in other bytes than before, so writers may only append to it.
"""

from echo.store.folder import DataFolder, Place
from echo.store.names import SegmentName, parse
from echo.store.notifier import Notifier
from echo.store.segment import MAX_LINE_BYTES, NotReady, Segment, State

__all__ = ["MAX_LINE_BYTES", "DataFolder", "NotReady", "Notifier", "Place", "Segment", "SegmentName", "State", "parse"]
