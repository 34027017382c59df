"""What is commonly written to send the same to many: an asyncio server with a queue for each client.

Sends each line of stdin to all, after the head of a response and nothing else of HTTP; ends with stdin.
"""

import asyncio
import contextlib
import sys

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"


async def main() -> None:
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

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    print(f"serving stdin on http://127.0.0.1:{server.sockets[0].getsockname()[1]}/data", file=sys.stderr, flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        for queue in queues:
            queue.put_nowait(line)


if __name__ == "__main__":
    asyncio.run(main())
