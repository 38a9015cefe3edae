# One image for every process: the workers, Flower, the simulator and the command line.
# The command selects the process; docker-compose.yml lists all of them.

FROM python:3.13-slim AS build
# To use another package index: docker build --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
COPY requirements-worker.txt /
# Only wheels, each checked against its hash: nothing is compiled, and everything is locked.
# The environment contains no pip; the pip of the base image installs into it.
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: --requirement /requirements-worker.txt
COPY penstock /app/penstock
COPY config /app/config
COPY tasks /app/tasks
COPY workers /app/workers
# The file system is read-only at run time, so the bytecode is written now; by hash, because COPY
# may change the times of the files. The script is the one that installing the package would create.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app \
    && printf '%s\n' '#!/opt/venv/bin/python' 'import sys' 'from penstock.cli import main' \
        'sys.exit(main())' > /opt/venv/bin/penstock \
    && chmod 755 /opt/venv/bin/penstock

FROM python:3.13-slim
# The SDK uses the root certificates of the operating system, which should be up to date.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin penstock
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
# Numeric, so that a cluster which requires a non-root user can verify it.
USER 10001:10001
# SIGTERM is a warm shutdown for Celery. The exec form of CMD lets the signal reach it.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "celery", "-A", "workers.app", "worker", "--queues", "streams", "--hostname", "streams@%h"]
