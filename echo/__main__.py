"""`python -m echo`: see --help."""

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence

from echo.settings import parse
from echo.signals import SIGNALS


def listen(host: str, port: int, stall_timeout: float) -> socket.socket:
    """Return a listening socket whose clients are cut off when they read nothing for `stall_timeout` seconds."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise each response waits 40 ms
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # finds clients that have vanished
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    # Only the kernel knows what a client has taken: tcp(7). Accepted sockets inherit the options.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(min(stall_timeout * 1000, 2**31 - 1)))
    return listener


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 stopped, 1 port taken or internal error, 2 wrong settings."""
    settings = parse(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until there are handlers
    try:
        listener = listen(*settings.listen, settings.stall_timeout)
    except OSError as error:
        host, port = settings.listen
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        problem = str(error.strerror or error).partition(" (while ")[0].lower()
        print(f"echo: cannot listen on {where}: {problem} (--listen, ECHO_LISTEN)", file=sys.stderr)
        return 1
    from echo.server import serve  # after listening: clients wait during the import instead of being refused

    try:
        return asyncio.run(serve(settings, listener))
    except (OSError, ValueError) as error:
        print(f"echo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
