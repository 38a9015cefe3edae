"""Celery messages: the names of tasks and queues, and the wake-ups that producers send."""
