"""Configuration of the workers: settings, Celery, logs."""
