# The base image is an argument, for registry mirrors and for machines without a registry.
ARG BASE=python:3.13-slim
FROM ${BASE}

# ps shows the processes: `docker exec ... ps`.
# hadolint ignore=DL3008 # the version depends on the date of the base image
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps \
    && apt-get clean && rm -rf /var/lib/apt/lists/*

# The programs do not run as root. Group 0 owns the data folder, because OpenShift runs them as any user of group 0.
RUN useradd --uid 10001 --gid 0 --no-create-home --shell /usr/sbin/nologin appcoup \
    && install -d -o 10001 -g 0 -m 0775 /data

# Install the locked requirements before the code, because they change less often.
COPY requirements.txt /app/
RUN pip install --no-cache-dir --root-user-action=ignore --require-hashes -r /app/requirements.txt

# Copy only what runs.
COPY app.sh health.sh supervisord.conf /app/
COPY pid1 /tmp/pid1
RUN pip install --no-cache-dir --root-user-action=ignore --no-deps --no-build-isolation /tmp/pid1 && rm -r /tmp/pid1
COPY generator /app/generator
COPY echo /app/echo

# Compile now, because the root file system may be read-only and some base images come without Python's cache. The
# imports also check that the programs can start.
RUN python -m compileall -q /app && PYTHONPATH=/app python -c "import supervisor.supervisord, supervisor.http, supervisor.web, \
    supervisor.supervisorctl, pid1.hooks, generator.__main__, echo.__main__, echo.server, echo.mirror, prometheus_client"

# supervisorctl finds supervisord.conf here.
WORKDIR /app

# For app.sh: where the requirements are installed, and where supervisord's socket and the heartbeats go. With a
# read-only root file system that must be a tmpfs.
ENV APPCOUP_VENV=/usr/local APPCOUP_RUN=/tmp GENERATOR_FILE=/data/data

# The data outlives the container.
VOLUME /data

# The only port.
EXPOSE 8000

# The container is unhealthy when either program is dead or hung, or when the newest number is stale.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=2 CMD ["/app/health.sh"]

# A number, so that Kubernetes can see that it is not root. Ids below 10000 may belong to people on the host.
USER 10001:0

# The build arguments give the revision and the address of the source.
ARG REVISION= SOURCE=
LABEL org.opencontainers.image.title="appcoup" \
    org.opencontainers.image.version="2.0.0" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.revision="${REVISION}"

# exec makes supervisord PID 1.
CMD ["/app/app.sh"]
