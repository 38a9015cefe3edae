"""The name of this worker process in leases and claims."""

import os
import socket
from functools import cache

from penstock.ids import new_id


@cache
def process_name() -> str:
    """Return host, pid and a random part (pids are reused): ``web-1:4711:k3x9ab``."""
    return f"{socket.gethostname()}:{os.getpid()}:{new_id()[-6:]}"
