"""The HTTP server: uvicorn, with a stop that is prompt, gentle and bounded."""

import asyncio
import contextlib
import fcntl
import importlib
import importlib.util
import resource
import signal
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

from echo.access import Access
from echo.app import App
from echo.data import Data
from echo.exchange import say
from echo.settings import Settings
from echo.signals import SIGNALS, STOP
from echo.source import open_source

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
SPARE = 128  # descriptors


class Protocol(HttpToolsProtocol):
    """uvicorn's, which would wait for a request's head for ever, however long that became."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(2**14)  # what a client that stops reading costs, beside a piece
        self.await_head()

    running: Any = None

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

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self.patience.cancel()
        if self.running and not self.running.response_complete:
            self.running.disconnected = True  # uvicorn tells only the last request, which may wait behind this one
            self.running.message_event.set()
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
        """Let responses arrive until the deadline or a second signal, cut the rest off.

        Who comes while they do is still answered, as /readyz is to say so; then no more is accepted.
        """
        state = self.server_state
        deadline = time.monotonic() + self.stop_timeout
        lingering: dict[Any, socket.socket] = {}  # connections whose responses are on the way

        def keep() -> None:
            for connection in state.connections:
                if connection not in lingering and in_flight(connection):
                    with contextlib.suppress(OSError):  # no descriptor left for it
                        lingering[connection] = duplicate(connection)

        def shut() -> None:
            for connection in list(state.connections):
                connection.shutdown()

        async def drain(busy: Callable[[], object]) -> None:
            while busy() and time.monotonic() < deadline and not self.hurry.is_set():
                await asyncio.sleep(0.01)
                keep()
                for connection in lingering.keys() - state.connections:
                    if closed_by_client(lingering[connection]):
                        del lingering[connection]

        keep()
        first = set(lingering)
        await self.hear_out()
        keep()
        shut()
        await drain(lambda: first & state.connections)
        for server in self.servers:
            server.close()
        await self.hear_out()
        keep()
        shut()
        await drain(lambda: state.connections or state.tasks or lingering)
        if left := sum(map(unsent, lingering.values())):
            say(f"cut {left} response(s) off after {self.stop_timeout:g} s")
        for connection in list(state.connections):
            connection.transport.abort()
        await self.hear_out()
        for task in list(state.tasks):  # who waits for a client has ended by now, but not who searches
            task.cancel()
        while state.tasks:
            await asyncio.sleep(0.01)

    async def hear_out(self) -> None:
        """Accept who has connected, and read what was asked, up to now."""
        for _ in range(3):
            await asyncio.sleep(0)


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


def room_for(followers: int) -> int:
    """How many of them may be let in, for plain requests to have descriptors left."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    room = max(0, most - SPARE)
    if followers > room:
        say(f"--followers (ECHO_FOLLOWERS): {followers} need more than {most} open files (ulimit -n): {room} it is")
    return min(followers, room)


async def serve(settings: Settings, listener: socket.socket) -> int:
    """Answer on the listening socket until SIGTERM, SIGINT or SIGQUIT; returns the exit status.

    Raises OSError or ValueError, in words, if a setting cannot be used.
    """
    access = Access(settings)
    source, feed = open_source(settings)
    data = Data(source, feed, room_for(settings.followers))
    app = App(settings, data, feed, access)
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
        ssl_context_factory=(lambda *_: access.context) if access.context else None,  # type: ignore[arg-type]
    )
    server = Server(config, settings.stop_timeout)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]  # ours are below

    def stop(number: signal.Signals) -> None:
        (server.hurry if server.stop.is_set() else server.stop).set()
        data.stop()
        say(f"{number.name}: stopping")

    def reopen() -> None:
        say(f"SIGHUP: reopening {settings.source}")
        try:
            access.load()
        except (OSError, ValueError) as error:
            say(f"SIGHUP: {error}; going on with what there was")
        feed.reopen()
        data.look()

    def status() -> None:
        state = server.server_state
        said = f"{len(state.connections)} connections, {len(data.followers)} of them followers"
        say(f"SIGUSR1: {said}, {state.total_requests} requests answered")

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
    scheme = "https" if access.context else "http"
    say(f"serving {settings.source} on {scheme}://{f'[{host}]' if ':' in host else host}:{port}/data")
    background = [asyncio.ensure_future(task) for task in (feed.run(data.look), data.pulse(), prepare())]
    broken = []

    def ended(task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            broken.append(error)
            say(f"cannot go on: {error!r}")
            server.stop.set()
            data.stop()

    for task in background:
        task.add_done_callback(ended)
    await server.serve(sockets=[listener])
    for task in background:
        task.cancel()
    say(f"stopped: {server.server_state.total_requests} requests answered")
    return 1 if broken else 0


async def prepare() -> None:
    """Load, once there is time for it, what is not needed to begin: it would hold up others when it is."""
    await asyncio.sleep(1)
    await asyncio.to_thread(importlib.import_module, "werkzeug.http")
