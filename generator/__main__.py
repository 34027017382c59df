"""The entry point of `python -m generator`."""

import signal
import sys
from collections.abc import Sequence

from generator.folder import DataFolder
from generator.lock import Locked, Unusable
from generator.loop import Loop, log, touch
from generator.settings import parse
from generator.signals import SIGNALS, Signals


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when stopped or done, 1 if another generator writes to the folder, 2 for settings that cannot work."""
    settings = parse(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    folder = DataFolder(settings.file, settings.segment_size, settings.keep, settings.fsync)
    try:
        note = folder.open()
        if settings.heartbeat:
            touch(settings.heartbeat)
    except Locked as error:
        log(f"generator: {error}")
        return 1
    except Unusable as error:
        log(f"generator: --file (GENERATOR_FILE): {error}")
        return 2
    except OSError as error:
        log(f"generator: --heartbeat (GENERATOR_HEARTBEAT): {settings.heartbeat}: {error.strerror}")
        return 2
    pace = f"every {settings.interval:g} s" if settings.interval else "as fast as it can"
    log(f"writing numbers from {settings.min} to {settings.max} to {settings.file} {pace}")
    if note:
        log(note)
    return Loop(settings, folder).run(Signals())


if __name__ == "__main__":
    sys.exit(main())
