"""CPU and memory that processes have used so far, from ``/proc``; Linux only."""

import os
import time
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that all threads of a process have used, in user and kernel mode."""
    # The name, in parentheses, may contain anything: the fields are counted after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    return _status_kb(pid, "VmRSS") / 1024


def peak_memory_mb(pid: int) -> float:
    """Highest resident memory of a process since `forget_peak`, in MB."""
    return _status_kb(pid, "VmHWM") / 1024


def forget_peak(pid: int) -> None:
    """Reset the highest memory of a process, so that its start does not count."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_kb(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise ValueError(f"no {name} of process {pid}")


def machine_cpu_s() -> float:
    """Seconds of CPU that all processes have used, without idle and stolen time."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) * _TICK_S


class Usage:
    """Measures CPU seconds of some processes, and of all others together, from now on."""

    def __init__(self, **pids: int) -> None:
        self._pids = {"own": os.getpid(), **pids}
        self._start = time.monotonic()
        self._before = self._now()

    def cpu_s(self) -> dict[str, float]:
        """Seconds that each process has used since then.

        ``others_cores``: how many cores, on average, other programs kept busy.
        """
        used = {name: now - self._before[name] for name, now in self._now().items()}
        others = used.pop("machine") - sum(used.values())
        used["others_cores"] = max(0.0, others / (time.monotonic() - self._start))
        return {name: round(value, 2) for name, value in used.items()}

    def _now(self) -> dict[str, float]:
        each = {name: cpu_s(pid) for name, pid in self._pids.items() if _exists(pid)}
        return {**each, "machine": machine_cpu_s()}


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
