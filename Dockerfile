# Two stages: the first installs the locked packages, each file checked against its hash; the second holds what
# serving needs and runs as nobody in particular. The Python is the one that the locks were made with.
FROM python:3.11.14-slim-bookworm AS packages

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/slipstream
COPY requirements.lock ./
RUN /opt/slipstream/bin/pip install --only-binary :all: --require-hashes -r requirements.lock

FROM python:3.11.14-slim-bookworm

RUN useradd --system --uid 10001 --home-dir /var/lib/slipstream --create-home slipstream
COPY --from=packages /opt/slipstream /opt/slipstream
COPY app /srv/slipstream/app
COPY LICENSE /srv/slipstream/LICENSE

ENV PATH=/opt/slipstream/bin:$PATH \
    PYTHONPATH=/srv/slipstream \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SLIPSTREAM_SERVER__HOST=0.0.0.0 \
    SLIPSTREAM_STATE__DATA_DIR=/var/lib/slipstream
RUN python -m compileall -q /srv/slipstream/app

USER slipstream
WORKDIR /var/lib/slipstream
VOLUME /var/lib/slipstream
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
