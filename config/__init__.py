"""What differs between deployments: settings, the Celery configuration, logs."""
