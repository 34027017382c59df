# The base is a build argument, so that it can come from a mirror or from this machine.
ARG BASE=python:3.13-slim
FROM ${BASE}

# ps shows the processes: `docker exec ... ps`. Its version is not pinned, because it depends on the date of the base.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps \
    && apt-get clean && rm -rf /var/lib/apt/lists/*

# The programs do not run as root. Any user id with group 0 may write /data (OpenShift gives such ids).
RUN useradd --uid 10001 --gid 0 --no-create-home --shell /usr/sbin/nologin appcoup \
    && install -d -o 10001 -g 0 -m 0775 /data

# The locked requirements. They come before the code, because they change less often.
COPY requirements.txt /app/
RUN pip install --no-cache-dir --root-user-action=ignore --require-hashes -r /app/requirements.txt

# Only what runs.
COPY app.sh health.sh supervisord.conf /app/
COPY pid1 /tmp/pid1
RUN pip install --no-cache-dir --root-user-action=ignore --no-deps --no-build-isolation /tmp/pid1 && rm -r /tmp/pid1
COPY generator /app/generator
COPY echo /app/echo

# Compile now, because the root file system may be read-only later, and some bases have no compiled standard library.
# The imports also check that the programs can start.
RUN python -m compileall -q /app && PYTHONPATH=/app python -c "import supervisor.supervisord, supervisor.http, supervisor.web, \
    supervisor.supervisorctl, pid1.hooks, generator.__main__, echo.__main__, echo.server, echo.mirror, prometheus_client"

# supervisorctl finds supervisord.conf in this folder.
WORKDIR /app

# For app.sh: the folder of the installed requirements, the folder of supervisord's socket and the heartbeat (a tmpfs if
# the root file system is read-only), and the data file.
ENV APPCOUP_VENV=/usr/local APPCOUP_RUN=/tmp GENERATOR_FILE=/data/data

# The data stay when the container is removed.
VOLUME /data

# The only port of the container.
EXPOSE 8000

# The container is unhealthy if a program is dead or hangs, or if the newest number is too old.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=2 CMD ["/app/health.sh"]

# Kubernetes can see only from a number that the user is not root. Ids below 10000 may belong to a person on the host.
USER 10001:0

# These build arguments name the revision and the repository.
ARG REVISION= SOURCE=
LABEL org.opencontainers.image.title="appcoup" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.revision="${REVISION}"

# app.sh replaces itself by supervisord, which becomes PID 1.
CMD ["/app/app.sh"]
