# syntax=docker/dockerfile:1
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/imagegate
COPY requirements/run.lock requirements/run.lock
RUN /opt/imagegate/bin/pip install --no-cache-dir --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY proxy proxy
RUN /opt/imagegate/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/imagegate/bin/pip uninstall --yes hatchling editables

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 imagegate \
    && useradd --uid 10001 --gid imagegate --no-create-home --home-dir /var/lib/imagegate imagegate \
    && install -d -o imagegate -g imagegate -m 0700 /var/lib/imagegate
COPY --from=build /opt/imagegate /opt/imagegate
USER 10001:10001
# The only place that is written to: the root file system may be read-only.
WORKDIR /var/lib/imagegate
VOLUME /var/lib/imagegate
ENV PATH=/opt/imagegate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    IMAGEGATE_SERVER__HOST=0.0.0.0
# What it was made from, for the metric imagegate_build_info: --build-arg REVISION=$(git rev-parse HEAD)
ARG REVISION=unknown
ENV IMAGEGATE_REVISION=$REVISION
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["imagegate"]
CMD ["serve"]
