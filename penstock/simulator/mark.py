"""The marks that distinguish the answers of the simulator from those of the API."""

from collections.abc import Mapping
from typing import Final

#: A header of every response. Workers record it, so that an answer of the simulator is marked in
#: its record, its last event, the command line and Flower, wherever the worker was pointed.
HEADER: Final = "penstock-simulator"
#: The beginning of every answer's text, if the option ``mark`` is 1.
TEXT: Final = "[simulated] "


def is_simulated(headers: Mapping[str, str]) -> bool:
    """Whether a response with these ``headers`` comes from the simulator."""
    return HEADER in headers
