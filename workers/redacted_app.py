"""A Celery app whose events and replies have no secrets in them.

Both are read by Flower, and by every other program that listens at the broker. What they contain
of an error is the text of an exception, and the reply to ``inspect stats`` has the URL of a socket.
"""

from typing import Any, Final

from celery import Celery
from celery.app.control import Control
from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher
from kombu.pidbox import Mailbox

from penstock.access.redaction import redacted_value

#: The fields of events that contain text from outside; the others are names and numbers.
_TEXTS: Final = ("exception", "traceback", "result", "reason", "args", "kwargs")


class RedactedDispatcher(EventDispatcher):
    """Sends events without secrets."""

    def publish(self, type: str, fields: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Publish an event."""
        return super().publish(type, _without_secrets(fields), *args, **options)

    def send(self, type: str, *args: Any, **fields: Any) -> Any:
        """Send an event, or buffer it."""
        return super().send(type, *args, **_without_secrets(fields))


def _without_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {name: redacted_value(fields[name]) for name in _TEXTS if name in fields}


class RedactedEvents(Events):
    """The events of the app."""

    dispatcher_cls = f"{__name__}:RedactedDispatcher"


class RedactedMailbox(Mailbox):
    """Replies to remote control commands, such as those of Flower."""

    def _publish_reply(self, reply: Any, *args: Any, **options: Any) -> Any:
        return super()._publish_reply(redacted_value(reply), *args, **options)


class RedactedControl(Control):
    """The remote control of the app."""

    Mailbox = RedactedMailbox


class RedactedCelery(Celery):
    """A Celery app with these parts."""

    events_cls = f"{__name__}:RedactedEvents"
    control_cls = f"{__name__}:RedactedControl"
