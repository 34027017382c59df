# mypy: ignore-errors
# The servers are installed in the bench's own environment only.
"""`server_candidates.py NAME PORT FOLDER`: one of the HTTP servers to choose from, until SIGTERM.

Each serves the folder's files with a known length, small ones from memory; /stream, a line each 0.1 s until it is
stopped; and /flood, as much as the client takes. On SIGTERM it ends its streams first, where it can.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

SMALL, CHUNK = 2**20, 2**18
FIRST, LINE, BLOCK = b"0\n" * 1000, b"12345\n", b"x" * 2**16
TEXT = "text/plain"

kept: dict[str, tuple[tuple[int, int, int], bytes]] = {}


def in_memory(path: str) -> bytes | None:
    """The whole of a small file, read again when it changed."""
    stat = os.stat(path)
    key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if path in kept and kept[path][0] == key:
        return kept[path][1]
    if stat.st_size > SMALL:
        return None
    body = Path(path).read_bytes()
    kept[path] = key, body
    return body


async def stream(stop: asyncio.Event) -> AsyncIterator[bytes]:
    yield FIRST
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.1)
        yield LINE


async def flood(stop: asyncio.Event) -> AsyncIterator[bytes]:
    while True:
        yield BLOCK


ENDLESS: dict[str, Callable[[asyncio.Event], AsyncIterator[bytes]]] = {"/stream": stream, "/flood": flood}


class BigFile:
    """An open file of fixed size, in chunks."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.fd).st_size

    def __iter__(self) -> Iterator[bytes]:
        try:
            for start in range(0, self.size, CHUNK):
                yield os.pread(self.fd, min(CHUNK, self.size - start), start)
        finally:
            os.close(self.fd)


async def uvicorn(port: int, folder: str, stop: asyncio.Event, http: str) -> None:
    from uvicorn import Config, Server

    async def start(send, size: int | None = None) -> None:
        length = [] if size is None else [(b"content-length", str(size).encode())]
        headers = [(b"content-type", TEXT.encode()), *length]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def body(send, part: bytes = b"", more: bool = False) -> None:
        await send({"type": "http.response.body", "body": part, "more_body": more})

    async def app(scope, receive, send) -> None:
        path = scope["path"]
        if path in ENDLESS:
            await start(send)
            async for part in ENDLESS[path](stop):
                await body(send, part, more=True)
            await body(send)
        elif (small := in_memory(folder + path)) is not None:
            await start(send, len(small))
            await body(send, small)
        else:
            big = BigFile(folder + path)
            await start(send, big.size)
            for part in big:
                await body(send, part, more=True)
            await body(send)

    options = {"http": http, "loop": "none", "lifespan": "off", "ws": "none", "access_log": False}
    server = Server(Config(app, port=port, log_level="warning", timeout_graceful_shutdown=5, **options))
    server.capture_signals = contextlib.nullcontext
    serving = asyncio.ensure_future(server.serve())
    await stop.wait()
    server.should_exit = True
    await serving


async def aiohttp(port: int, folder: str, stop: asyncio.Event) -> None:
    from aiohttp import web

    async def file(request: web.Request) -> web.StreamResponse:
        small = in_memory(folder + request.path)
        if small is not None:
            return web.Response(body=small, content_type=TEXT)
        return web.FileResponse(folder + request.path)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for part in ENDLESS[request.path](stop):
            await response.write(part)
        await response.write_eof()
        return response

    app = web.Application()
    app.add_routes([web.get(path, endless) for path in ENDLESS] + [web.get("/{name}", file)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await stop.wait()
    await runner.cleanup()


async def tornado(port: int, folder: str, stop: asyncio.Event) -> None:
    from tornado.httpserver import HTTPServer
    from tornado.web import Application, RequestHandler

    class File(RequestHandler):
        async def get(self, name: str) -> None:
            self.set_header("Content-Type", TEXT)
            small = in_memory(f"{folder}/{name}")
            if small is not None:
                self.write(small)
                return
            big = BigFile(f"{folder}/{name}")
            self.set_header("Content-Length", big.size)
            for part in big:
                self.write(part)
                await self.flush()

    class Endless(RequestHandler):
        async def get(self) -> None:
            async for part in ENDLESS[self.request.path](stop):
                self.write(part)
                await self.flush()

    routes = [(path, Endless) for path in ENDLESS] + [("/(.*)", File)]
    server = HTTPServer(Application(routes, log_function=lambda handler: None))
    server.listen(port, "127.0.0.1", backlog=1024)
    await stop.wait()
    server.stop()
    await asyncio.wait_for(server.close_all_connections(), 5)


async def granian(port: int, folder: str, stop: asyncio.Event) -> None:
    from granian.server.embed import Server

    headers = [("content-type", TEXT)]

    async def app(scope, protocol) -> None:
        if scope.path in ENDLESS:
            transport = protocol.response_stream(200, headers)
            async for part in ENDLESS[scope.path](stop):
                await transport.send_bytes(part)
        elif (small := in_memory(folder + scope.path)) is not None:
            protocol.response_bytes(200, headers, small)
        else:
            protocol.response_file(200, headers, folder + scope.path)

    # Its default admits 128 requests at once; a further stream waits.
    many = {"backlog": 4096, "backpressure": 4096}
    server = Server(app, address="127.0.0.1", port=port, interface="rsgi", log_access=False, **many)
    serving = asyncio.ensure_future(server.serve())
    await stop.wait()
    await asyncio.sleep(0.05)  # for the streams to end; after stop() they would be kept open
    server.stop()
    await serving


def stdlib(port: int, folder: str) -> None:
    """On threads, which nothing tells to stop: its streams end with the process."""
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # it writes head and body one by one, and would wait 40 ms between them

        def log_message(self, *args: object) -> None:
            pass

        def endless(self) -> Iterator[bytes]:
            if self.path == "/stream":
                yield FIRST
            while True:
                if self.path == "/stream":
                    time.sleep(0.1)
                yield LINE if self.path == "/stream" else BLOCK

        def do_GET(self) -> None:
            if self.path not in ENDLESS:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):
                for part in self.endless():
                    self.wfile.write(part)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024

    os.chdir(folder)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    Server(("127.0.0.1", port), Handler).serve_forever()


def uvicorn_on(http: str) -> Callable[[int, str, asyncio.Event], Awaitable[None]]:
    return lambda port, folder, stop: uvicorn(port, folder, stop, http)


ASYNC = {
    "aiohttp": aiohttp,
    "uvicorn h11": uvicorn_on("h11"),
    "uvicorn httptools": uvicorn_on("httptools"),
    "tornado": tornado,
    "granian": granian,
}
ON_UVLOOP = {f"{name} uvloop": ASYNC[name] for name in ("aiohttp", "uvicorn httptools", "granian")}
NAMES = ("stdlib", *ASYNC, *ON_UVLOOP)


async def until_stopped(serve: Callable[[int, str, asyncio.Event], Awaitable[None]], port: int, folder: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(port, folder, stop)


def main(name: str, port: int, folder: str) -> None:
    if name == "stdlib":
        stdlib(port, folder)
    elif name in ON_UVLOOP:
        import uvloop

        uvloop.run(until_stopped(ON_UVLOOP[name], port, folder))
    else:
        asyncio.run(until_stopped(ASYNC[name], port, folder))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
