"""The worker process: the Celery app, its pool, its event loop and the reaper."""
