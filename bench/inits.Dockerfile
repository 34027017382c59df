# The image of bench/run inits, with the process managers of Debian and PyPI.
ARG BASE=python:3.13-slim
FROM ${BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends s6 runit tini && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --root-user-action=ignore supervisor honcho circus setuptools
COPY pid1 /tmp/pid1
RUN pip install --no-cache-dir --root-user-action=ignore --no-deps --no-build-isolation /tmp/pid1
COPY inits.py /
ENTRYPOINT ["python", "/inits.py"]
