"""`python -m echo`: see --help."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence

from echo.settings import parse, refuse


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when stopped, 1 when the port is taken, 2 when settings cannot work."""
    settings = parse(argv)
    if os.path.isdir(settings.source):
        return refuse(f"--source (ECHO_SOURCE): {settings.source} is a directory: give a file in it")
    if not os.path.isdir(settings.source.parent):
        return refuse(f"--source (ECHO_SOURCE): directory {settings.source.parent} does not exist: create it")
    try:
        listener = listen(*settings.listen)
    except OSError as error:
        problem = str(error.strerror or error).partition(" (while ")[0]
        return refuse(f"--listen (ECHO_LISTEN): {settings.listen[0]} port {settings.listen[1]}: {problem}", 1)
    from echo.server import serve  # only now: what connects meanwhile waits instead of being refused

    asyncio.run(serve(settings, listener))
    return 0


if __name__ == "__main__":
    sys.exit(main())
