# mypy: ignore-errors
# Only the environment of bench/run serving has these packages.
"""How the other servers serve the same file: an ASGI application, an RSGI application, an nginx configuration."""

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
    """Serve the file as the usual Starlette application does."""
    from starlette.applications import Starlette
    from starlette.responses import FileResponse
    from starlette.routing import Route

    async def data(request):
        return FileResponse(FILE, media_type="text/plain")

    return Starlette(routes=[Route("/data", data)])


async def rsgi(scope, protocol):
    """Serve the file as the usual RSGI application does."""
    protocol.response_file(200, [("content-type", "text/plain")], FILE)
