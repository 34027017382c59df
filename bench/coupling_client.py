"""Looks at the numbers from where it is run, which may be in a container, and says at once what it saw and when.

coupling_client.py watch FILE: `number OFFSET TIME` for each number that comes to the file
coupling_client.py follow URL: the same for each that comes from an echo, `broken TIME WHY` where a stream ends
coupling_client.py ask URL SECONDS PATIENCE: asks every so many seconds, each time on a new connection; `ok TIME` or
`failed TIME WHY`

OFFSET is where in the stream the number's line ends: the same in every echo. TIME is the clock's, in nanoseconds.
"""

import http.client
import os
import sys
import time
import urllib.parse
from collections.abc import Sequence

PATIENCE = 5.0  # seconds
GLANCE = 5  # milliseconds, for a file system that does not tell of changes


def watch(path: str) -> None:
    from inotify_simple import INotify, flags  # only here: it is where echo is

    inotify = INotify()
    inotify.add_watch(path, flags.MODIFY)
    fd = os.open(path, os.O_RDONLY)
    base = int(os.path.realpath(path).rpartition(".")[2])  # of the segment in the stream
    offset = base + os.lseek(fd, 0, os.SEEK_END)
    print("ready", flush=True)
    while True:
        inotify.read(timeout=GLANCE)
        data = os.read(fd, 2**16)
        now = time.time_ns()
        for position, byte in enumerate(data, offset + 1):
            if byte == ord("\n"):
                print(f"number {position} {now}", flush=True)
        offset += len(data)


def connect(url: urllib.parse.SplitResult, patience: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(url.netloc, timeout=patience)


def follow(address: str) -> None:
    url = urllib.parse.urlsplit(address)
    last = ""
    while True:
        connection = connect(url, PATIENCE * 2)
        try:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            connection.request("GET", f"{url.path}?follow{'' if last else '&tail=0'}", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(f"{response.status}")
            print("ready", flush=True)
            while line := response.readline():
                if line.startswith(b"id: "):
                    now = time.time_ns()
                    last = line[4:].decode().strip()
                    print(f"number {last.partition('-')[2]} {now}", flush=True)
            raise ValueError("it ended")
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"broken {time.time_ns()} {error!r}", flush=True)
        finally:
            connection.close()
        time.sleep(0.02)


def ask(address: str, every: float, patience: float) -> None:
    url = urllib.parse.urlsplit(address)
    due = time.monotonic()
    while True:
        connection = connect(url, patience)
        try:
            connection.request("GET", url.path)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise ValueError(f"{response.status}")
            print(f"ok {time.time_ns()}", flush=True)
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"failed {time.time_ns()} {error!r}", flush=True)
        finally:
            connection.close()
        due = max(due + every, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def main(argv: Sequence[str]) -> None:
    what, where, *seconds = argv
    if what == "watch":
        watch(where)
    elif what == "follow":
        follow(where)
    else:
        ask(where, *map(float, seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
