"""What happens to the work: the Celery tasks, and what they are made of."""
