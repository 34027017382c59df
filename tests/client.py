"""client.py URL SECONDS: GET URL every so many seconds, each time on a new connection.

From the first answer on it prints every failure, and now and then how many requests there were. It is a failure, too,
when what was served before is not what the answer begins with, although it is of the same generation.
"""

import http.client
import sys
import time
import urllib.parse

url, every = urllib.parse.urlsplit(sys.argv[1]), float(sys.argv[2])
generation, served = "", b""
requests = 0
due = time.monotonic()
while True:
    connection = http.client.HTTPConnection(url.netloc, timeout=2)
    try:
        connection.request("GET", url.path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ValueError(f"{response.status}: {body[:200]!r}")
        of = (response.headers["ETag"] or "").partition("-")[0]
        if of == generation and not body.startswith(served):
            raise ValueError(f"generation {of} was {served!r} and is {body!r}")
        generation, served = of, body
    except (OSError, ValueError, http.client.HTTPException) as error:
        if requests:
            print(f"failed: {error!r}", flush=True)
    finally:
        connection.close()
    if requests or served:
        requests += 1
        if requests % 25 == 1:
            print(f"requests: {requests}", flush=True)
    due = max(due + every, time.monotonic())
    time.sleep(max(0, due - time.monotonic()))
