"""The HTTP server: uvicorn, with a stop that is prompt, gentle and bounded."""

import asyncio
import contextlib
import fcntl
import importlib.util
import signal
import socket
import sys
import termios
import time
from typing import Any

from echo.app import App, say
from echo.datafile import DataFile
from echo.settings import Settings
from echo.signals import SIGNALS, STOP

# The package without its __init__, which imports uvicorn's command line: a fifth of the time that echo takes to start.
if (spec := importlib.util.find_spec("uvicorn")) and "uvicorn" not in sys.modules:
    sys.modules["uvicorn"] = importlib.util.module_from_spec(spec)

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server as Uvicorn

vars(uvicorn)["Config"] = Config  # which is all that its modules want of the package


HEAD_SECONDS = 10.0  # for a request's head to arrive, from the connection or its first byte on
HEAD_BYTES = 65536


class Protocol(HttpToolsProtocol):
    """uvicorn's, which would wait for a request's head for ever, however long that became."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.await_head()

    def await_head(self) -> None:
        self.head = 0
        self.patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        self.patience.cancel()
        self.await_head()
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        self.head += len(data)
        super().data_received(data)
        if self.head > HEAD_BYTES and not self.patience.cancelled():
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self.patience.cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.patience.cancel()
        super().connection_lost(exc)


class Server(Uvicorn):
    """Stops when told, not at the next tenth of a second, and aborts what outlasts its deadline."""

    def __init__(self, config: Config, stop_timeout: float) -> None:
        super().__init__(config)
        self.stop_timeout = stop_timeout
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()

    async def main_loop(self) -> None:
        while not self.stop.is_set():
            await self.on_tick(0)  # the Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, let responses arrive until the deadline or a second signal, cut the rest off."""
        for server in self.servers:
            server.close()
        state = self.server_state
        lingering = [duplicate(connection) for connection in state.connections if in_flight(connection)]
        for connection in list(state.connections):
            connection.shutdown()
        deadline = time.monotonic() + self.stop_timeout
        while (state.connections or state.tasks or lingering) and time.monotonic() < deadline:
            if self.hurry.is_set():
                break
            if not state.connections:
                lingering = [client for client in lingering if not closed_by_client(client)]
            await asyncio.sleep(0.01)
        if left := sum(map(unsent, lingering)):
            say(f"cut {left} response(s) off after {self.stop_timeout:g} s")
        for connection in list(state.connections):
            connection.transport.abort()
        while state.tasks:
            await asyncio.sleep(0.01)


def in_flight(connection: Any) -> bool:
    """Whether a response is still being made, or sent, or on its way to the client's acknowledgement."""
    if connection.cycle is not None and not connection.cycle.response_complete:
        return True
    return bool(connection.transport.get_write_buffer_size()) or unsent(connection.transport.get_extra_info("socket"))


def unsent(client: socket.socket) -> bool:
    """Whether the peer has still to acknowledge something."""
    return any(fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4)))


def duplicate(connection: Any) -> socket.socket:
    """A second handle of a connection, which keeps it from being closed with the first."""
    client: socket.socket = connection.transport.get_extra_info("socket").dup()
    client.setblocking(False)
    return client


def closed_by_client(client: socket.socket) -> bool:
    """Say that no more will come, and see whether the client has taken all and closed (RFC 9112, 9.6).

    Until then the response may still be in the kernel's buffers, or in a proxy's like Docker's, and
    those go with the container.
    """
    try:
        client.shutdown(socket.SHUT_WR)
        gone = not client.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        gone = True
    if gone:
        client.close()
    return gone


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Answer on the listening socket until SIGTERM, SIGINT or SIGQUIT."""
    file = DataFile(settings.source)
    app = App(file, settings.stale)
    config = Config(
        app,
        http=Protocol,
        loop="none",
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
    )
    server = Server(config, settings.stop_timeout)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]  # ours are below

    def stop(number: signal.Signals) -> None:
        (server.hurry if server.stop.is_set() else server.stop).set()
        app.stopping = True
        say(f"{number.name}: stopping")

    def reopen() -> None:
        say(f"SIGHUP: reopening {settings.source}")
        file.reopen()

    def status() -> None:
        connections = len(server.server_state.connections)
        say(f"SIGUSR1: {connections} connections, {server.server_state.total_requests} requests answered")

    def toggle() -> None:
        app.verbose = not app.verbose
        say(f"SIGUSR2: {'logging' if app.verbose else 'no longer logging'} every request")

    loop = asyncio.get_running_loop()
    for number in STOP:
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reopen)
    loop.add_signal_handler(signal.SIGUSR1, status)
    loop.add_signal_handler(signal.SIGUSR2, toggle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    host, port = listener.getsockname()[:2]
    say(f"serving {settings.source} on http://{f'[{host}]' if ':' in host else host}:{port}/data")
    await server.serve(sockets=[listener])
    say(f"stopped: {server.server_state.total_requests} requests answered")
