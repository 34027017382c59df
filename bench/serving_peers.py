# mypy: ignore-errors
# The servers are installed in the bench's own environment only.
"""The same file by the servers beside echo: an ASGI application, an RSGI application, a configuration of nginx."""

import os

FILE = os.environ.get("BENCH_FILE", "")
NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    etag on;
    default_type text/plain;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port} reuseport; root {root}; }}
}}
"""


def starlette():
    """What Starlette's users write to serve a file."""
    from starlette.applications import Starlette
    from starlette.responses import FileResponse
    from starlette.routing import Route

    async def data(request):
        return FileResponse(FILE, media_type="text/plain")

    return Starlette(routes=[Route("/data", data)])


async def rsgi(scope, protocol):
    """What Granian's users write to serve a file."""
    protocol.response_file(200, [("content-type", "text/plain")], FILE)
