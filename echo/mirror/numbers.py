"""What a file of numbers may look like. Pure."""

import ctypes

ALPHABET = b"0123456789-\n"
# Which of these may not follow which: a line is a number, and a sign begins one.
WRONG_PAIRS = (b"\n\n", b"-\n", b"--", *(b"%d-" % digit for digit in range(10)))

# libc's functions look at 16 bytes at a time: Python's own take six times as long, and for signs fifty times.
libc = ctypes.CDLL(None)
libc.strspn.argtypes = libc.strstr.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
libc.strspn.restype = ctypes.c_size_t
libc.strstr.restype = ctypes.c_void_p


def are_numbers(block: bytes, before: bytes = b"\n") -> bool:
    """Whether a block of decimal numbers, one a line, may look like this after the byte `before`."""
    if libc.strspn(block, ALPHABET) < len(block) or before + block[:1] in WRONG_PAIRS:
        return False
    wrong = WRONG_PAIRS if b"-" in block else WRONG_PAIRS[:1]
    return not any(libc.strstr(block, pair) for pair in wrong)
