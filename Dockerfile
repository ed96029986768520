# The service in a container; docs/serving.md has how to build and start it.
# CUDA is the default: torch's wheel brings CUDA's libraries, and the base the rest. For the CPU: --build-arg BASE=python:3.12-slim-bookworm
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE}

# Where pip finds torch; empty: where it finds everything else. PyTorch's index of CPU builds makes a CPU image 5 GB smaller.
ARG TORCH_INDEX=""
ARG TORCH="torch==2.13.0"

SHELL ["/bin/sh", "-euc"]
RUN apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends espeak-ng; \
    command -v python3 >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3; \
    python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null \
        || DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv; \
    rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/livetalk; \
    /opt/livetalk/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY livetalk_core livetalk_core
RUN /opt/livetalk/bin/pip install --no-cache-dir ".[live]"; \
    useradd --create-home --uid 10001 livetalk

USER livetalk
WORKDIR /home/livetalk
ENV PATH=/opt/livetalk/bin:$PATH PYTHONUNBUFFERED=1
VOLUME /models
EXPOSE 8765
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/health', timeout=4)"]
# SIGTERM, which `docker stop` sends, lets streams finish; give it more than --drain-s: docker stop --time 40
ENTRYPOINT ["livetalk"]
CMD ["serve", "--host", "0.0.0.0"]
