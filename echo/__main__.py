"""`python -m echo`: see --help."""

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence

from echo.settings import parse
from echo.signals import SIGNALS


def listen(host: str, port: int, stall_timeout: float) -> socket.socket:
    """A listening socket. A client that takes nothing for `stall_timeout` seconds is cut off. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a kept connection stalls 40 ms a response
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # for who vanishes while there is nothing to send
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    # By the kernel, which alone knows what was taken: tcp(7). What is accepted inherits it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(stall_timeout * 1000), 2**31 - 1))
    return listener


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when stopped, 1 when the port is taken or something broke, 2 when settings cannot work."""
    settings = parse(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # kept until there are handlers: clients may wait already
    try:
        listener = listen(*settings.listen, settings.stall_timeout)
    except OSError as error:
        host, port = settings.listen
        problem = str(error.strerror or error).partition(" (while ")[0]
        print(f"echo: --listen (ECHO_LISTEN): {host} port {port}: {problem}", file=sys.stderr)
        return 1
    from echo.server import serve  # only now: what connects meanwhile waits instead of being refused

    try:
        return asyncio.run(serve(settings, listener))
    except (OSError, ValueError) as error:
        print(f"echo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
