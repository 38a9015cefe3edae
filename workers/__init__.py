"""How processes live: the Celery app, its pool, the event loop, and what they need to survive."""
