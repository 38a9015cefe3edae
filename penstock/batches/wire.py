"""The bytes of a shard's lines: requests in the body of a create call, and stored results.

A body is ``BODY_HEAD``, its requests with a comma between them, ``BODY_TAIL``. A request is
``LINE_HEAD``, its custom_id on the wire, ``PARAMS``, its params, ``LINE_TAIL``. A stored result
line is the same with ``RESULT`` and its result.
"""

import re
from typing import Final

#: Characters of a nonce. It is new for every create call, so that a batch's results show which
#: call made it.
NONCE_CHARS: Final = 12
_DIGITS: Final = 6

#: Characters of a custom_id on the wire: the nonce, a hyphen, the request's index in its shard.
WIRE_ID: Final = NONCE_CHARS + 1 + _DIGITS

_FORM: Final = re.compile(rf"[a-z0-9]{{{NONCE_CHARS}}}-[0-9]{{{_DIGITS}}}")

BODY_HEAD: Final = b'{"requests":['
LINE_HEAD: Final = b'{"custom_id":"'
PARAMS: Final = b'","params":'
RESULT: Final = b'","result":'
LINE_TAIL: Final = b"}"
BODY_TAIL: Final = b"]}"

#: Bytes of a request in a body beside its params; the comma before the next is not counted.
REQUEST_BYTES: Final = len(LINE_HEAD) + WIRE_ID + len(PARAMS) + len(LINE_TAIL)
#: Bytes of a body without requests.
EMPTY_BODY_BYTES: Final = len(BODY_HEAD) + len(BODY_TAIL)

#: Where the custom_id of a stored result line ends, and the request's index in it.
ID_END: Final = len(LINE_HEAD) + WIRE_ID
INDEX: Final = slice(ID_END - _DIGITS, ID_END)


def wire_id(nonce: str, index: int) -> str:
    """The custom_id on the wire of a shard's request number ``index``, counted from 0."""
    return f"{nonce}-{index:06d}"


def is_wire_id(custom_id: str) -> bool:
    """Whether a custom_id has the form of those of a create call of Penstock."""
    return _FORM.fullmatch(custom_id) is not None


def request_head(nonce: str) -> bytes:
    """What comes before a request's params, with ``%06d`` in place of its index."""
    return LINE_HEAD + nonce.encode() + b"-%06d" + PARAMS
