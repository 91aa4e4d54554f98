# CPU:  docker build --tag nanochat .
# GPU:  docker build --tag nanochat --target gpu .      (torch brings CUDA; the host needs only a driver and
#                                                        NVIDIA's container toolkit)
# Where PyTorch's own package index cannot be reached, add --build-arg SYNC=--no-sources
FROM python:3.12-slim AS base
# g++ is for torch.compile, and for training and decoding on a CPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv \
    && useradd --uid 1000 --create-home nanochat \
    && install --directory --owner=nanochat --group=nanochat /data
ENV NANOCHAT_BASE_DIR=/data \
    PATH=/opt/nanochat/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
VOLUME /data
EXPOSE 8000
# For `serve`. Other verbs answer no requests: run them with --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["nanochat"]
CMD ["serve", "--host=0.0.0.0"]
WORKDIR /opt/nanochat
ARG SYNC=
COPY pyproject.toml README.md LICENSE ./

FROM base AS gpu
RUN uv sync --no-install-project --extra gpu $SYNC
COPY nanochat nanochat
RUN uv sync --no-editable --extra gpu $SYNC
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER nanochat

FROM base AS cpu
RUN uv sync --no-install-project --extra cpu $SYNC
COPY nanochat nanochat
RUN uv sync --no-editable --extra cpu $SYNC
USER nanochat
