# conf-server on the vLLM project's own image, which brings vLLM, PyTorch and CUDA. From the root:
#     docker build --file deploy/container/cuda.Dockerfile --tag conf-server:0.1.0-cuda .
ARG VLLM_VERSION=0.33.0

FROM python:3.12-slim AS wheel
WORKDIR /source
COPY pyproject.toml MANIFEST.in LICENSE ./
COPY docs/package.md docs/
COPY conf_server conf_server
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM vllm/vllm-openai:v${VLLM_VERSION}
ARG VLLM_VERSION
# What [server] wants is in the image. That vLLM stays as it is, is said to pip, and looked at.
COPY --from=wheel /wheels /wheels
RUN python3 -m pip install --no-cache-dir "$(echo /wheels/*.whl)[server]" "vllm==${VLLM_VERSION}" \
    && conf-server --version \
    && rm -r /wheels \
    && useradd --uid 10001 --gid 0 --create-home conf-server \
    && install --directory --owner=10001 --group=0 --mode=770 /cache
# For charts that start `vllm serve`: it comes first on PATH, and starts conf-server.
COPY --chmod=755 deploy/container/vllm /opt/conf-server/bin/vllm

ENV PATH=/opt/conf-server/bin:${PATH} \
    HOME=/home/conf-server \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    CUDA_CACHE_PATH=/cache/cuda \
    PYTHONUNBUFFERED=1
VOLUME /cache
USER 10001:0
WORKDIR /home/conf-server
EXPOSE 8000
# Loading a model takes minutes: until then the container is starting, not unhealthy.
HEALTHCHECK --start-period=1h --interval=10s --timeout=5s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
# SIGTERM, the default, drains for --shutdown-timeout seconds (30): give a stop more than that.
ENTRYPOINT ["conf-server"]
CMD ["--help"]
