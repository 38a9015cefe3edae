"""The name of this worker process in leases and claims."""

import os
import socket
from functools import cache

from penstock.ids import new_id


@cache
def process_name() -> str:
    """Host, pid, and a random part that tells this process from an earlier one of the same pid."""
    return f"{socket.gethostname()}:{os.getpid()}:{new_id()[-6:]}"
