"""The Celery app: ``celery -A workers.app worker -Q streams``."""

import os

from config.broker import celery_config
from config.settings import WorkerSettings
from penstock.access.redaction import redact_process
from penstock.errors import ConfigurationError
from workers import messages, shutdown, startup, transport
from workers.redacted_app import RedactedCelery

redact_process(os.environ)
try:
    settings = WorkerSettings.load()
except ConfigurationError as error:
    raise startup.StartRefused(str(error)) from None

app = RedactedCelery(
    "penstock",
    task_cls="workers.request:HandedOverTask",
    include=["tasks.streams.task", "tasks.batches.task", "tasks.maintenance"],
)
app.config_from_object(celery_config(settings))
transport.install()
messages.install()
shutdown.install(settings)
startup.install(settings)

# Import the tasks now: the `celery` command has the current folder on the path only while it
# imports this module.
app.loader.import_default_modules()
