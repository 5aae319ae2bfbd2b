# syntax=docker/dockerfile:1
# Two images from one file: `train` (everything) and `serve` (the server alone).
#   docker build --target serve -t vicinal-serve .
#   docker build --target train --build-arg BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04 -t vicinal-train .
ARG BASE=ubuntu:24.04

FROM ${BASE} AS python
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The distribution's security fixes are wanted more than a pinned point release.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --no-install-recommends -y python3 libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /home/vicinal vicinal
ENV PATH=/opt/vicinal/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VICINAL_WORKSPACE=/workspace

# Compilers and pip stay in this stage.
FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --no-install-recommends -y python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/vicinal
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY vicinal vicinal
COPY trainer trainer
COPY index index
COPY serving serving
RUN /opt/vicinal/bin/pip install --no-cache-dir -c constraints.txt '.[service]'

FROM python AS train
COPY --from=build /opt/vicinal /opt/vicinal
RUN install -d -o vicinal -g vicinal /workspace
USER 10001:10001
WORKDIR /home/vicinal
VOLUME /workspace
ENTRYPOINT ["vicinal"]
CMD ["--help"]

# The server writes nothing but what its workspace holds: run it with --read-only --tmpfs /tmp.
# Off loopback it refuses to start without TLS and keys (docs/runbook.md), or --insecure said aloud.
FROM python AS serve
COPY --from=build /opt/vicinal /opt/vicinal
RUN install -d -o vicinal -g vicinal /workspace \
 && rm -rf /opt/vicinal/lib/python3*/site-packages/trainer
USER 10001:10001
WORKDIR /home/vicinal
VOLUME /workspace
EXPOSE 50051
STOPSIGNAL SIGTERM
# Against a server with TLS, set VICINAL_CA (and VICINAL_CERTIFICATE, VICINAL_PRIVATE_KEY, VICINAL_API_KEY) for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
  CMD ["vicinal", "snapshots", "--address", "127.0.0.1:50051"]
ENTRYPOINT ["vicinal"]
CMD ["serve", "--host", "0.0.0.0", "--port", "50051"]
