"""How the requests of a shard are written into the body of a create call."""

from typing import Final

#: Characters of a custom_id on the wire: 12 of the nonce, a hyphen, 6 digits. It is new for every
#: create call, so that a batch shows by its results which call made it.
WIRE_ID: Final = 19

#: The body of a create call, piece by piece: ``HEAD``, requests with ``,`` between, ``TAIL``; a
#: request is ``OPEN``, its custom_id on the wire, ``MIDDLE``, its params, ``CLOSE``.
HEAD: Final = b'{"requests":['
OPEN: Final = b'{"custom_id":"'
MIDDLE: Final = b'","params":'
CLOSE: Final = b"}"
TAIL: Final = b"]}"


def wire_id(nonce: str, index: int) -> str:
    """The custom_id on the wire of a shard's request number ``index``, counted from 0."""
    return f"{nonce}-{index:06d}"
