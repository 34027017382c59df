"""When the next number is due. Pure."""


def next_round(previous: float, interval: float, now: float) -> float:
    """The time of the round after the one that was due at `previous`; seconds on one monotonic clock.

    Rounds are counted from the first, so lateness does not add up. After a pause of more than
    a whole interval (a suspended machine, a hung disk) the missed rounds are not made up for.
    """
    due = previous + interval
    return due if now - due <= interval else now
