"""The faults in force, and how often each has fired."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from penstock.simulator.faults.fault import Fault


@dataclass
class _ActiveFault:
    fault: Fault
    matched: int = 0
    fired: int = 0

    @property
    def ready(self) -> bool:
        beyond = self.matched > self.fault.after
        return beyond and (self.fault.times == 0 or self.fired < self.fault.times)


class ActiveFaults:
    """The faults in force, those of directives included."""

    def __init__(self) -> None:
        self._active: list[_ActiveFault] = []
        self._directives: dict[tuple[str, str, int], _ActiveFault] = {}

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        self._active.append(_ActiveFault(fault))

    def clear(self) -> None:
        """Remove every fault, and forget which directives have fired."""
        self._active.clear()
        self._directives.clear()

    def as_list(self) -> list[dict[str, Any]]:
        """The faults in force with their counts."""
        return [
            {
                **{k: v for k, v in asdict(each.fault).items() if v is not None},
                "matched": each.matched,
                "fired": each.fired,
            }
            for each in self._active
        ]

    def fire(
        self,
        method: str,
        path: str,
        model: str | None = None,
        *,
        ended: bool = False,
        prompt: str = "",
        directives: Iterable[tuple[str, Fault]] = (),
    ) -> Fault | None:
        """What should go wrong with this request, counted as fired.

        Of the faults that fire a limited number of times, one fires for each request, in order, so
        that several make a sequence. Unlimited ones (``times=0``) come on top of it. ``ended``:
        whether the request is about a batch that has ended.
        """
        matched = [
            each for each in self._active if each.fault.matches(method, path, model, ended=ended)
        ]
        matched += [
            self._directives.setdefault((prompt, text, place), _ActiveFault(fault))
            for place, (text, fault) in enumerate(directives)
        ]
        for each in matched:
            each.matched += 1
        ready = [each for each in matched if each.ready]
        firing = [each for each in ready if each.fault.times == 0]
        firing += [each for each in ready if each.fault.times][:1]
        result: Fault | None = None
        for each in firing:
            each.fired += 1
            result = each.fault if result is None else each.fault.merged_over(result)
        return result
