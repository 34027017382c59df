"""Two baseline servers that send each line of stdin to all clients. Of HTTP, they send only a response head.

follow_peer.py queues: the usual asyncio server, with a queue and a task for each client
follow_peer.py writes: the least that asyncio needs, one loop that writes the line to each transport

Both end when stdin ends.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"


async def serve_by_queues() -> tuple[asyncio.Server, Callable[[bytes], None]]:
    """Return the server and a function that sends a line to all its clients."""
    queues: set[asyncio.Queue[bytes]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            queues.add(queue)
            writer.write(HEAD)
            while True:
                await writer.drain()
                writer.write(await queue.get())
        queues.discard(queue)

    def send(line: bytes) -> None:
        for queue in queues:
            queue.put_nowait(line)

    return await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048), send


async def serve_by_writes() -> tuple[asyncio.Server, Callable[[bytes], None]]:
    """Return the server and a function that sends a line to all its clients."""
    transports: set[asyncio.WriteTransport] = set()

    class Client(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(HEAD)
            transports.add(self.transport)

        def connection_lost(self, exc: Exception | None) -> None:
            transports.discard(self.transport)

    def send(line: bytes) -> None:
        for transport in transports:
            transport.write(line)

    return await asyncio.get_running_loop().create_server(Client, "127.0.0.1", 0, backlog=2048), send


async def main() -> None:
    server, send = await {"queues": serve_by_queues, "writes": serve_by_writes}[sys.argv[1]]()
    print(f"serving stdin on http://127.0.0.1:{server.sockets[0].getsockname()[1]}/data", file=sys.stderr, flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        send(line)


if __name__ == "__main__":
    asyncio.run(main())
