"""The HTTP server: uvicorn, with a stop that is prompt, gentle and bounded."""

import asyncio
import contextlib
import signal
import socket
import time

import uvicorn

from echo.app import App, say
from echo.datafile import DataFile
from echo.settings import Settings


class Server(uvicorn.Server):
    """Stops when told, not at the next tenth of a second, and aborts what outlasts its deadline."""

    def __init__(self, config: uvicorn.Config, stop_timeout: float) -> None:
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
        """Accept no more, let requests finish until the deadline or a second signal, cut the rest off."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        deadline = time.monotonic() + self.stop_timeout
        while self.busy() and time.monotonic() < deadline and not self.hurry.is_set():
            await asyncio.sleep(0.01)
        if self.server_state.connections:
            say(f"cut {len(self.server_state.connections)} connection(s) off after {self.stop_timeout:g} s")
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        while self.server_state.tasks:
            await asyncio.sleep(0.01)

    def busy(self) -> bool:
        return bool(self.server_state.connections or self.server_state.tasks)


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Answer on the listening socket until SIGTERM, SIGINT or SIGQUIT."""
    file = DataFile(settings.source)
    app = App(file, settings.stale)
    config = uvicorn.Config(
        app,
        http="httptools",
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
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reopen)
    loop.add_signal_handler(signal.SIGUSR1, status)
    loop.add_signal_handler(signal.SIGUSR2, toggle)
    host, port = listener.getsockname()[:2]
    say(f"serving {settings.source} on http://{f'[{host}]' if ':' in host else host}:{port}/data")
    await server.serve(sockets=[listener])
    say(f"stopped: {server.server_state.total_requests} requests answered")
