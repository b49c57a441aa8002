# conf-server with vLLM for machines without a GPU. From the root:
#     docker build --file deploy/container/cpu.Dockerfile --tag conf-server:0.1.0-cpu \
#         --build-arg PIP_EXTRA_INDEX_URL=... .
# The address is that of PyTorch's CPU wheels: see docs/install.md.
FROM python:3.11-slim AS environment
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY pyproject.toml MANIFEST.in LICENSE ./
COPY docs/package.md docs/
COPY conf_server conf_server
COPY deploy/container/install_cpu.sh deploy/container/
RUN python -m venv /opt/conf-server && sh deploy/container/install_cpu.sh /opt/conf-server

FROM python:3.11-slim
# libnuma: vLLM's kernels. tcmalloc: it keeps less memory, see docs/service.md. The versions are those
# of the image's Debian.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 libtcmalloc-minimal4 \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s "$(find /usr/lib -name 'libtcmalloc_minimal.so.4')" /usr/local/lib/libtcmalloc.so \
    && useradd --uid 10001 --gid 0 --create-home conf-server \
    && install --directory --owner=10001 --group=0 --mode=770 /cache
COPY --from=environment /opt/conf-server /opt/conf-server
# For charts that start `vllm serve`: it takes the place of vLLM's own command.
COPY --chmod=755 deploy/container/vllm /opt/conf-server/bin/vllm

ENV PATH=/opt/conf-server/bin:${PATH} \
    HOME=/home/conf-server \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    LD_PRELOAD=/usr/local/lib/libtcmalloc.so \
    PYTHONUNBUFFERED=1
# Imports vLLM: what it lacks comes out here.
RUN conf-server --help > /dev/null
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
