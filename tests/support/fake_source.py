"""A fake source for mirrors: it serves segments from memory as an echo does, or any other answer."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIVE = 2**53 - 1


class Source:
    """The segments of a fake source by name; the last one is current."""

    def __init__(self) -> None:
        self.segments: dict[str, bytes] = {}
        self.changed = threading.Condition()
        self.requests: list[tuple[str, str, str]] = []  # method, path, range
        self.headers: dict[str, str] = {}  # sent with each response
        self.tokens: list[str] = []
        self.modified = ""
        self.answer: Callable[[Handler], bool] = lambda handler: False  # returns True if it answered
        self.closed = False

    @property
    def current(self) -> str:
        return list(self.segments)[-1]

    def append(self, data: bytes, name: str = "") -> None:
        with self.changed:
            name = name or self.current
            self.segments[name] = self.segments.get(name, b"") + data
            self.changed.notify_all()

    def rotate(self, data: bytes, gap: int = 0) -> str:
        stream, base = self.current.split("-")
        name = f"{stream}-{int(base) + len(self.segments[self.current]) + gap}"
        self.append(data, name)
        return name

    def remove(self, name: str) -> None:
        with self.changed:
            del self.segments[name]
            self.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    source: Source

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        source = self.source
        source.requests.append((self.command, self.path, self.headers.get("Range", "")))
        source.tokens.append(self.headers.get("Authorization", ""))
        with contextlib.suppress(OSError):
            if not source.answer(self):
                self.serve()

    @property
    def range(self) -> tuple[int, int]:
        match = re.fullmatch("bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def serve(self, ranges: bool = True) -> None:
        """Answer as an echo does."""
        source = self.source
        name = self.path.removeprefix("/data").lstrip("/") or (source.current if source.segments else "")
        if name not in source.segments:
            stream, _, base = name.partition("-")
            later = [each for each in source.segments if each.startswith(stream) and int(each[9:]) > int(base or 0)]
            later = later or [each for each in source.segments if not each.startswith(stream)]
            link = (("Link", f'</data/{later[0]}>; rel="next"'),) if name and later else ()
            self.text(410 if name else 503, b"gone\n" if name else b"no number yet\n", link)
            return
        data = source.segments[name]
        if not ranges:
            self.begin(200, name)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        start, last = self.range
        if start > len(data) or (start == len(data) and last < LIVE):
            self.text(416, b"beyond\n")
            return
        self.begin(206, name)
        if last < LIVE:
            part = data[start : last + 1]
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)
            return
        self.send_header("Content-Range", f"bytes {start}-{last}/*")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not source.closed:
            with source.changed:
                data = source.segments.get(name, b"")[start:]
                if not data:
                    if name not in source.segments or name != source.current:
                        break
                    source.changed.wait(0.05)
            for piece in (data[n : n + 2**18] for n in range(0, len(data), 2**18)):
                self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
            start += len(data)
        self.wfile.write(b"0\r\n\r\n")

    def begin(self, status: int, name: str) -> None:
        source = self.source
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Location", f"/data/{name}")
        self.send_header("ETag", f'"{name}-{len(source.segments[name])}"')
        if source.modified:
            self.send_header("Last-Modified", source.modified)
        names = list(source.segments)
        if name != names[-1]:
            self.send_header("Link", f'</data/{names[names.index(name) + 1]}>; rel="next"')
        for field, value in source.headers.items():
            self.send_header(field, value)

    def text(self, status: int, words: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.send_response(status)
        for field, value in (
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(words))),
            *headers,
        ):
            self.send_header(field, value)
        self.end_headers()
        self.wfile.write(words)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # the mirror closed the connection


@contextlib.contextmanager
def serving(source: Source, port: int = 0) -> Iterator[str]:
    """Serve the source; yield the URL of its /data."""
    source.closed = False
    server = Server(("127.0.0.1", port), type("OneHandler", (Handler,), {"source": source}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/data"
    finally:
        source.closed = True
        server.shutdown()
        server.server_close()
        thread.join()
