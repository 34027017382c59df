"""`python -m generator`: see --help."""

import os
import signal
import sys
from collections.abc import Sequence

from generator.datafile import DataFile, Locked, Unusable
from generator.rounds import SIGNALS, Rounds, say, touch
from generator.settings import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when stopped or done, 1 when another generator holds the file, 2 when settings cannot work."""
    settings = parse(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # taken between lines, by sigtimedwait
    file = DataFile(settings.file, settings.max_size, settings.fsync)
    beat = settings.heartbeat
    if beat and not os.path.isdir(beat.parent):
        say(f"generator: --heartbeat (GENERATOR_HEARTBEAT): directory {beat.parent} does not exist: create it")
        return 2
    try:
        told = file.open()
        if beat:
            touch(beat)
    except Locked as error:
        say(f"generator: {error}")
        return 1
    except Unusable as error:
        say(f"generator: --file (GENERATOR_FILE): {error}")
        return 2
    except OSError as error:
        say(f"generator: --heartbeat (GENERATOR_HEARTBEAT): {beat}: {error.strerror}")
        return 2
    pace = f"every {settings.interval:g} s" if settings.interval else "as fast as it can"
    say(f"writing numbers from {settings.min} to {settings.max} to {settings.file} {pace}")
    if told:
        say(told)
    return Rounds(settings, file).run()


if __name__ == "__main__":
    sys.exit(main())
