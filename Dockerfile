# The base is an argument, for mirrors and for places without a registry.
ARG BASE=python:3.13-slim
FROM ${BASE}

# ps, so that `docker exec ... ps` shows what runs.
# hadolint ignore=DL3008 # a base of another date has another version of it
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps \
    && apt-get clean && rm -rf /var/lib/apt/lists/*

# Not root; group 0 owns what must be written, so that any user id with that group may (OpenShift gives such ids).
RUN useradd --uid 10001 --gid 0 --no-create-home --shell /usr/sbin/nologin appcoup \
    && install -d -o 10001 -g 0 -m 0775 /data

# Before the code, for it changes less often. Exactly what is locked.
COPY requirements.txt /app/
RUN pip install --no-cache-dir --root-user-action=ignore --require-hashes -r /app/requirements.txt

# What runs, and no more.
COPY app.sh health.sh supervisord.conf /app/
COPY pid1 /tmp/pid1
RUN pip install --no-cache-dir --root-user-action=ignore --no-deps --no-build-isolation /tmp/pid1 && rm -r /tmp/pid1
COPY generator /app/generator
COPY echo /app/echo

# The root file system may be read-only, and some bases come without Python's cache: what is imported at a start is
# compiled now. And a check that it can start.
RUN python -m compileall -q /app && PYTHONPATH=/app python -c "import supervisor.supervisord, supervisor.http, supervisor.web, \
    supervisor.supervisorctl, pid1.hooks, generator.__main__, echo.__main__, echo.server, echo.mirror, prometheus_client"

# supervisorctl finds supervisord.conf here.
WORKDIR /app

# For app.sh: where the requirements are installed; and where supervisord's socket and the generator's heartbeat go
# (with a read-only root file system a tmpfs).
ENV APPCOUP_VENV=/usr/local APPCOUP_RUN=/tmp GENERATOR_FILE=/data/data

# The data outlive the container's own layer.
VOLUME /data

# The only port.
EXPOSE 8000

# Dead, hung or stale: either program makes the container unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=2 CMD ["/app/health.sh"]

# By number, so that Kubernetes can see that it is not root; ids below 10000 may be a person's on the host.
USER 10001:0

# The build arguments say which revision it is, and where that comes from.
ARG REVISION= SOURCE=
LABEL org.opencontainers.image.title="appcoup" \
    org.opencontainers.image.version="2.0.0" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.revision="${REVISION}"

# exec makes supervisord PID 1.
CMD ["/app/app.sh"]
