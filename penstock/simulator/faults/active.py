"""The faults in force, and how often each has fired."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from penstock.simulator.faults.fault import Fault


@dataclass
class _Armed:
    fault: Fault
    met: int = 0
    fired: int = 0

    @property
    def ready(self) -> bool:
        beyond = self.met > self.fault.after
        return beyond and (self.fault.times == 0 or self.fired < self.fault.times)


class Faults:
    """The faults in force, and how often each has fired."""

    def __init__(self) -> None:
        """Begin with none."""
        self._armed: list[_Armed] = []
        self._directives: dict[tuple[str, str, int], _Armed] = {}

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        self._armed.append(_Armed(fault))

    def clear(self) -> None:
        """Forget every fault, and which directives have fired."""
        self._armed.clear()
        self._directives.clear()

    def as_list(self) -> list[dict[str, Any]]:
        """Return the faults in force with their counts."""
        return [
            {
                **{k: v for k, v in asdict(each.fault).items() if v is not None},
                "met": each.met,
                "fired": each.fired,
            }
            for each in self._armed
        ]

    def take(
        self,
        method: str,
        path: str,
        model: str | None = None,
        *,
        ended: bool = False,
        prompt: str = "",
        directives: Iterable[tuple[str, Fault]] = (),
    ) -> Fault | None:
        """Return what shall go wrong with this request, and count it as fired.

        Of the faults that fire a limited number of times one fires for each
        request, in order, so that several make a sequence; unlimited ones
        (`times=0`) come on top of it. `ended` says that the request is about a
        batch that has ended.
        """
        met = [each for each in self._armed if each.fault.meets(method, path, model, ended=ended)]
        met += [
            self._directives.setdefault((prompt, text, place), _Armed(fault))
            for place, (text, fault) in enumerate(directives)
        ]
        for each in met:
            each.met += 1
        ready = [each for each in met if each.ready]
        firing = [each for each in ready if each.fault.times == 0]
        firing += [each for each in ready if each.fault.times][:1]
        result: Fault | None = None
        for each in firing:
            each.fired += 1
            result = each.fault if result is None else each.fault.over(result)
        return result
