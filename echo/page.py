"""The page to watch the numbers on."""

import base64
import functools
import hashlib
import re
from pathlib import Path


@functools.cache
def load() -> tuple[bytes, str]:
    """The page, and the Content-Security-Policy under which nothing but its own script and style works."""
    page = Path(__file__).with_name("page.html").read_bytes()
    policy = (
        f"default-src 'none'; script-src {digest(page, b'script')}; style-src {digest(page, b'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def digest(page: bytes, tag: bytes) -> str:
    """The hash source of the page's one element of this name: https://www.w3.org/TR/CSP3/#grammardef-hash-source"""
    (content,) = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
