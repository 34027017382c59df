"""When the next number is due. Pure."""


def next_due(previous: float, interval: float, now: float) -> float:
    """Return the time after the one due at `previous`; seconds on one monotonic clock.

    Times are counted from the first, so lateness does not add up. After a pause of more than
    a whole interval (a suspended machine, a hung disk) the missed times are skipped.
    """
    due = previous + interval
    return due if now - due <= interval else now
