"""The Celery app: ``celery -A workers.app worker -Q streams``."""

from celery import Celery

from config.broker import celery_config
from config.settings import WorkerSettings
from penstock.errors import ConfigurationError
from workers import kombu_patch, messages, startup

try:
    settings = WorkerSettings.load()
except ConfigurationError as error:
    raise startup.StartRefused(str(error)) from None

app = Celery("penstock", include=["tasks.streams.task", "tasks.batches.task", "tasks.maintenance"])
app.config_from_object(celery_config(settings))
kombu_patch.install()
messages.install()
startup.install(settings)

# Import the tasks now: the `celery` command has the current folder on the path only while it
# imports this module.
app.loader.import_default_modules()
