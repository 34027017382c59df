"""Observe the numbers of one deployment, from inside a container or from outside, and print each event at once.

coupling_client.py watch FILE: print `number OFFSET TIME` for each number appended to the file
coupling_client.py follow URL: print the same for each number received from an echo, and `broken TIME REASON` when a
    stream ends
coupling_client.py request URL INTERVAL TIMEOUT: send a request every INTERVAL seconds, each on a new connection, and
    print `ok TIME` or `failed TIME REASON`

OFFSET is the end of the number's line in the stream; it is the same in every echo. TIME is the wall clock in
nanoseconds.
"""

import http.client
import os
import sys
import time
import urllib.parse
from collections.abc import Sequence

FOLLOW_TIMEOUT_SECONDS = 10.0
POLL_MILLISECONDS = 5  # between reads on file systems without change notifications


def watch(path: str) -> None:
    """Print each number when it is appended to the file."""
    from inotify_simple import INotify, flags  # Imported here because only echo's containers have it.

    inotify = INotify()
    inotify.add_watch(path, flags.MODIFY)
    fd = os.open(path, os.O_RDONLY)
    base = int(os.path.realpath(path).rpartition(".")[2])  # the segment's offset in the stream
    offset = base + os.lseek(fd, 0, os.SEEK_END)
    print("ready", flush=True)
    while True:
        inotify.read(timeout=POLL_MILLISECONDS)
        data = os.read(fd, 2**16)
        now = time.time_ns()
        for end, byte in enumerate(data, offset + 1):
            if byte == ord("\n"):
                print(f"number {end} {now}", flush=True)
        offset += len(data)


def follow(address: str) -> None:
    """Print each number received from an echo. After a lost connection, continue after the last number."""
    url = urllib.parse.urlsplit(address)
    last_id = ""
    while True:
        connection = http.client.HTTPConnection(url.netloc, timeout=FOLLOW_TIMEOUT_SECONDS)
        try:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
            connection.request("GET", f"{url.path}?follow{'' if last_id else '&tail=0'}", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(f"{response.status}")
            print("ready", flush=True)
            while line := response.readline():
                if line.startswith(b"id: "):
                    now = time.time_ns()
                    last_id = line[4:].decode().strip()
                    print(f"number {last_id.partition('-')[2]} {now}", flush=True)
            raise ValueError("the stream ended")
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"broken {time.time_ns()} {error!r}", flush=True)
        finally:
            connection.close()
        time.sleep(0.02)


def send_requests(address: str, interval: float, timeout: float) -> None:
    """Send a GET request every `interval` seconds and print each result."""
    url = urllib.parse.urlsplit(address)
    due = time.monotonic()
    while True:
        connection = http.client.HTTPConnection(url.netloc, timeout=timeout)
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
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def main(argv: Sequence[str]) -> None:
    mode, target, *seconds = argv
    if mode == "watch":
        watch(target)
    elif mode == "follow":
        follow(target)
    else:
        send_requests(target, *map(float, seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
