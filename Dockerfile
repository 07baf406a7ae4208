# Two images from one file:
#
#     docker build -t vidette .                       for any 64-bit Linux machine (OpenVINO); the default
#     docker build -t vidette:cuda --target cuda .    for NVIDIA GPUs (NVDEC, TensorRT)
#
# BASE is any Debian-based image with Python 3.10 or newer. What is deployed wants a digest:
#
#     --build-arg BASE=docker.io/library/python:3.12-slim-bookworm@sha256:...
#
# A package index of your own, and its certificate, are given to pip without ending in a layer:
#
#     docker build --secret id=pip,src=$HOME/.config/pip/pip.conf .
#
# Where there is no Docker engine, scripts/build_image.sh makes a base and builds this with buildah.

ARG BASE=docker.io/library/python:3.12-slim-bookworm
ARG CUDA_DEVEL=docker.io/nvidia/cuda:13.0.1-devel-ubuntu24.04

# ---- what both are built with; none of it is in them

FROM ${BASE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore DEBIAN_FRONTEND=noninteractive
RUN python3 -c 'import ensurepip' 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; }
# pip has an environment of its own and installs into the other one, which is the one that is shipped.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/vidette
ENV PIP="/opt/pip/bin/pip --python /opt/vidette/bin/python"

# Our own code by itself: a change to it leaves the large layers below as they are.
FROM builder AS app
COPY pyproject.toml README.md LICENSE /src/
COPY app /src/app
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    $PIP install --no-deps /src

FROM builder AS cpu-packages
COPY requirements.lock deploy/container/sbom.py /src/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    $PIP install --require-hashes -r /src/requirements.lock \
    && mkdir -p /opt/vidette/share/doc/vidette \
    && python3 /src/sbom.py /src/requirements.lock > /opt/vidette/share/doc/vidette/sbom.cdx.json \
    && rm -rf /opt/vidette/lib/python3*/site-packages/onnx/backend/test/data

# ---- what both run on: no compiler, no pip of ours

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="Vidette" \
      org.opencontainers.image.description="Multi-camera RTSP inference: cameras in over REST, detections out over REST and WebSocket." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 vidette \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin vidette \
    && install -d -o 10001 -g 10001 /data \
    && install -d /etc/vidette
# Other machines may reach the port of a container, so the API asks for tokens: docker exec NAME vidette token create ...
ENV PATH=/opt/vidette/bin:$PATH \
    HOME=/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VIDETTE_SERVER__HOST=0.0.0.0 \
    VIDETTE_AUTH__MODE=token \
    VIDETTE_DATA_DIR=/data \
    VIDETTE_MODELS_DIR=/models
COPY models /models
COPY deploy/container/healthcheck.py /usr/local/lib/vidette/healthcheck.py
# A vidette.yml that is mounted here is read.
WORKDIR /etc/vidette
EXPOSE 8080
STOPSIGNAL SIGTERM
# The first start on a GPU builds an engine, which takes minutes; until the period is over nothing counts as a failure.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["/opt/vidette/bin/python", "-I", "/usr/local/lib/vidette/healthcheck.py"]
ENTRYPOINT ["vidette"]
CMD ["serve"]

# ---- NVIDIA GPUs

# pycuda has no wheel. It is compiled on BASE, whose Python and C library it will meet, against this toolkit's headers.
FROM ${CUDA_DEVEL} AS cuda-headers
RUN mkdir -p /cuda/lib64/stubs \
    && cp -rL /usr/local/cuda/include /cuda/include \
    && cp -L /usr/local/cuda/lib64/stubs/libcuda.so /cuda/lib64/stubs/

FROM builder AS pycuda
ARG PYCUDA=pycuda==2026.1
RUN headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h \
    && apt-get update \
    && apt-get install -y --no-install-recommends g++ $([ -f "$headers" ] || echo python3-dev) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=cuda-headers /cuda /cuda
RUN printf '%s\n' 'CUDA_ROOT = "/cuda"' 'CUDA_ENABLE_CURAND = False' > /etc/aksetup-defaults.py
# Without pip's cache, which would give a wheel that was compiled for another base. A stub that lacks the driver's symbols
# leaves a wheel that cannot be loaded, so that ends the build here.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pip/bin/pip wheel --no-cache-dir --no-deps -w /wheels "$PYCUDA" \
    && python3 -m zipfile -e /wheels/pycuda-*.whl /tmp/pycuda \
    && readelf -d /tmp/pycuda/pycuda/_driver*.so | grep -F libcuda.so.1

FROM builder AS cuda-packages
# `cuda` or `rtx`: which of pyproject.toml's extras. TENSORRT replaces its TensorRT, as in tensorrt-cu12==10.16.1.11.
ARG EXTRA=cuda
ARG TENSORRT=
COPY --from=pycuda /wheels /wheels
COPY pyproject.toml requirements.lock deploy/container/requirements.py /src/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pip/bin/python /src/requirements.py "$EXTRA" "$TENSORRT" \
    && $PIP install --find-links /wheels -c /src/constraints.txt -r /src/requirements.txt \
    && rm -rf /opt/vidette/lib/python3*/site-packages/onnx/backend/test/data

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    CUDA_CACHE_PATH=/data/cuda-cache
COPY --from=cuda-packages /opt/vidette /opt/vidette
COPY --from=app /opt/vidette /opt/vidette
VOLUME ["/data"]
USER 10001:10001

# ---- any 64-bit Linux machine; last, so that it is what a build without --target makes

FROM runtime AS cpu
COPY --from=cpu-packages /opt/vidette /opt/vidette
COPY --from=app /opt/vidette /opt/vidette
VOLUME ["/data"]
USER 10001:10001
