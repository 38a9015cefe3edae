# One image for every process: the workers, Flower, the simulator and the command line.
# Which of them a container is, its command says; docker-compose.yml has them all.

FROM python:3.13-slim AS build
# A package index other than pip's default: docker build --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
COPY requirements-worker.txt /
# Wheels alone, each checked against its hash: nothing is compiled, nothing unlocked gets in.
# The environment holds no pip; the one of the base image fills it.
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: --requirement /requirements-worker.txt
COPY penstock /app/penstock
COPY config /app/config
COPY tasks /app/tasks
COPY workers /app/workers
# The file system is read-only at run time, so the bytecode is written now. By hash: a copy may
# change the files' times. The command is the one that installing the package would have made.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app \
    && printf '%s\n' '#!/opt/venv/bin/python' 'import sys' 'from penstock.cli import main' \
        'sys.exit(main())' > /opt/venv/bin/penstock \
    && chmod 755 /opt/venv/bin/penstock

FROM python:3.13-slim
# The SDK trusts what the operating system trusts; root certificates are best when they are new.
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
# A number, so that a cluster which demands "not root" can see that it is not.
USER 10001:10001
# A warm shutdown, for Celery. The exec form below makes sure that the signal reaches it.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "celery", "-A", "workers.app", "worker", "--queues", "streams", "--hostname", "streams@%h"]
