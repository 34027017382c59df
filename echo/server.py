"""The server: listening socket, signals, background tasks, and a graceful stop within a deadline."""

import asyncio
import contextlib
import fcntl
import resource
import signal
import socket
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from echo import heartbeat
from echo.auth import Auth
from echo.endpoints.app import App
from echo.endpoints.data import Data
from echo.endpoints.followers import Followers
from echo.endpoints.state import DataWatcher
from echo.http.connection import HEAD_SECONDS, LINGER_SECONDS, SWEEP_SECONDS, WAITING, Connection, Connections, State
from echo.log import log
from echo.settings import Settings
from echo.signals import SIGNALS, STOP
from echo.store import DataFolder, Notifier

if TYPE_CHECKING:
    from echo.mirror import Mirror

SPARE_DESCRIPTORS = 128  # for files, and for plain requests when the follower limit is reached
RESERVED_DESCRIPTORS = 32  # never used for connections
ACCEPTS_PER_PASS = 64
LOG_SECONDS = 60.0  # between two log lines about a lack of descriptors
DRAIN_SECONDS = 0.01  # between two checks of the responses in flight, while stopping


class Server:
    """Accepts connections, and stops gracefully."""

    def __init__(
        self, listener: socket.socket, connections: Connections, auth: Auth, limit: int, stop_timeout: float
    ) -> None:
        self.listener = listener
        self.connections = connections
        self.auth = auth
        self.limit = limit  # of connections
        self.stop_timeout = stop_timeout  # seconds
        self.loop = asyncio.get_running_loop()
        self.accepting: set[asyncio.Task[None]] = set()
        self.paused = False
        self.logged_at = -LOG_SECONDS
        self.stop = asyncio.Event()
        self.force_exit = asyncio.Event()
        connections.on_close = self.unpause
        listener.setblocking(False)
        self.loop.add_reader(listener, self.accept)

    def accept(self) -> None:
        """Accept connections up to the limit. Others wait in the kernel's queue."""
        for _ in range(ACCEPTS_PER_PASS):
            if len(self.connections.open) + len(self.accepting) >= self.limit:
                self.pause(f"{self.limit} connections are open, the limit is reached")
                return
            try:
                client, _ = self.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self.pause(str(error.strerror))
                return
            task = self.loop.create_task(self.connect(client))
            self.accepting.add(task)
            task.add_done_callback(self.accepting.discard)

    async def connect(self, client: socket.socket) -> None:
        context = self.auth.context
        with contextlib.suppress(OSError):  # a failed handshake
            await self.loop.connect_accepted_socket(
                lambda: Connection(self.connections),
                client,
                ssl=context,
                ssl_handshake_timeout=HEAD_SECONDS if context else None,
                ssl_shutdown_timeout=LINGER_SECONDS if context else None,
            )

    def pause(self, reason: str) -> None:
        """Stop accepting until a connection has closed, and close idle ones to make room."""
        if self.loop.time() - self.logged_at >= LOG_SECONDS:
            self.logged_at = self.loop.time()
            log(f"cannot accept more connections: {reason} (ulimit -n)")
        self.loop.remove_reader(self.listener)
        self.paused = True
        self.connections.close_idle(ACCEPTS_PER_PASS)

    def unpause(self) -> None:
        if self.paused and not self.stop.is_set():
            self.paused = False
            self.loop.add_reader(self.listener, self.accept)

    async def run(self) -> None:
        """Serve until `stop` is set, then drain the connections."""
        while not self.stop.is_set():
            self.connections.sweep()
            self.unpause()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), SWEEP_SECONDS)
        await self.drain()

    async def drain(self) -> None:
        """Wait until clients have received their responses, the deadline has passed or a second signal has come.

        Then abort the rest. New requests are answered meanwhile, so that /readyz can say "stopping".
        """
        connections, deadline = self.connections, time.monotonic() + self.stop_timeout

        async def wait_while(busy: Callable[[], object]) -> None:
            while busy() and time.monotonic() < deadline and not self.force_exit.is_set():
                await asyncio.sleep(DRAIN_SECONDS)
                if time.monotonic() >= next_sweep[0]:
                    next_sweep[0] = time.monotonic() + SWEEP_SECONDS
                    connections.sweep()

        next_sweep = [time.monotonic() + SWEEP_SECONDS]
        first = {each for each in connections.open if in_flight(each)}
        await self.receive_backlog()
        connections.closing = True
        await wait_while(lambda: any(in_flight(each) for each in first & connections.open))
        self.accept()
        self.loop.remove_reader(self.listener)
        self.listener.close()
        await self.receive_backlog()
        for connection in list(connections.open):
            if connection.state in WAITING:
                connection.close() if in_flight(connection) else connection.transport.close()
        await wait_while(lambda: connections.open or self.accepting)
        if unfinished := sum(in_flight(each) for each in connections.open):
            log(f"cut off {unfinished} response(s) after {self.stop_timeout:g} s")
        for connection in list(connections.open):
            connection.transport.abort()
        await self.receive_backlog()

    async def receive_backlog(self) -> None:
        """Accept the connections and read the requests that are already in the kernel."""
        for _ in range(3):
            await asyncio.sleep(0)


def in_flight(connection: Connection) -> bool:
    """Return whether a response is being made or sent, or the client's kernel has not acknowledged all of it."""
    if connection.state in (State.RESPONDING, State.BODY) or connection.blocked:
        return True
    client = connection.transport.get_extra_info("socket")
    return client.fileno() >= 0 and any(fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4)))


def limits(followers: int) -> tuple[int, int]:
    """Raise the descriptor limit; return how many connections and how many followers it allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    room = max(0, most - SPARE_DESCRIPTORS)
    if followers > room:
        log(f"limited followers to {room}: {followers} need more than {most} open files (ulimit -n, ECHO_FOLLOWERS)")
    return max(1, most - RESERVED_DESCRIPTORS), min(followers, room)


async def serve(settings: Settings, listener: socket.socket) -> int:
    """Serve on the listening socket until SIGTERM, SIGINT or SIGQUIT; return the exit status.

    Raises OSError or ValueError, with a message for the user, if a setting cannot be used.
    """
    loop = asyncio.get_running_loop()
    auth = Auth(settings)
    host, port = listener.getsockname()[:2]
    url = f"{'https' if auth.context else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    if settings.heartbeat:
        heartbeat.begin(settings.heartbeat, url)
    mirror = open_mirror(settings)
    folder = DataFolder(mirror.folder if mirror else Path(settings.source))
    notifier = Notifier(folder.path)
    most_connections, most_followers = limits(settings.followers)
    followers = Followers(most_followers)
    data, watcher = Data(folder, followers), DataWatcher(folder)
    app = App(settings, data, watcher, notifier, mirror, auth)
    connections = Connections(app, loop, log)
    app.stats.bytes_sent = lambda: connections.bytes_sent
    server = Server(listener, connections, auth, most_connections, settings.stop_timeout)

    def refresh() -> bool:
        changed = data.refresh()
        watcher.sample()
        return changed

    def reload() -> None:
        folder.reopen()
        refresh()
        if mirror:
            mirror.reload()

    handle_signals(server, app, data, reload)
    log(f"serving {settings.source} on {url}/data")
    failed = []

    def ended(task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            failed.append(error)
            log(f"cannot go on: {error!r}")
            server.stop.set()
            followers.stop()

    tasks = [notifier.run(refresh), data.send_heartbeats()]
    if settings.heartbeat:
        tasks.append(heartbeat.beat(settings.heartbeat, url))
    background = [asyncio.ensure_future(task) for task in tasks]
    for task in background:
        task.add_done_callback(ended)
    if mirror:
        mirror.start()
    await server.run()
    for task in background:
        task.cancel()
    if mirror:
        mirror.close()
    log(f"stopped: {connections.requests} requests answered")
    return 1 if failed else 0


def open_mirror(settings: Settings) -> "Mirror | None":
    """Return a mirror if the source is another echo. Raises OSError or ValueError."""
    if isinstance(settings.source, Path):
        return None
    from echo.mirror import Mirror  # here, because its HTTP client takes longer to import than the rest of echo

    return Mirror(settings)


def handle_signals(server: Server, app: App, data: Data, reload: Callable[[], None]) -> None:
    """Install the handlers, and unblock the signals."""
    connections = server.connections

    def stop(number: signal.Signals) -> None:
        (server.force_exit if server.stop.is_set() else server.stop).set()
        data.refresh()
        data.followers.stop()
        log(f"{number.name}: stopping")

    def reopen() -> None:
        log(f"SIGHUP: reopening {app.settings.source}")
        try:
            server.auth.load()
        except (OSError, ValueError) as error:
            log(f"SIGHUP: cannot reload the token and the certificate: {error}; keeping the old ones")
        reload()

    def status() -> None:
        counted = f"{len(connections.open)} connections, {len(data.followers)} of them followers"
        log(f"SIGUSR1: {counted}, {connections.requests} requests answered")

    def toggle() -> None:
        app.verbose = not app.verbose
        log(f"SIGUSR2: {'logging' if app.verbose else 'no longer logging'} every request")

    for number in STOP:
        server.loop.add_signal_handler(number, stop, number)
    server.loop.add_signal_handler(signal.SIGHUP, reopen)
    server.loop.add_signal_handler(signal.SIGUSR1, status)
    server.loop.add_signal_handler(signal.SIGUSR2, toggle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
