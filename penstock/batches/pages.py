"""Pages of the list of jobs, as the SDK's ``client.messages.batches.list`` has them; pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from penstock.batches.view import Batch
from penstock.errors import InvalidRequest
from penstock.store.record import checked_id

#: Maximum jobs of one page, as at the API.
MAX_PAGE: Final = 1_000


class BatchPage:
    """One page of the list of jobs, newest first; iterating continues with the next pages.

    ``data`` has the jobs of this page; ``has_more`` says whether there are further ones in the
    direction in which the list was asked for.
    """

    def __init__(
        self, data: list[Batch], *, has_more: bool, following: "Callable[[], BatchPage]"
    ) -> None:
        self.data = data
        self.has_more = has_more
        self._following = following

    @property
    def first_id(self) -> str | None:
        """The id of the page's newest job; None for an empty page."""
        return self.data[0].id if self.data else None

    @property
    def last_id(self) -> str | None:
        """The id of the page's oldest job; None for an empty page."""
        return self.data[-1].id if self.data else None

    def has_next_page(self) -> bool:
        """Return whether there is a page after this one."""
        return self.has_more

    def get_next_page(self) -> "BatchPage":
        """Read the page after this one."""
        return self._following()

    def __iter__(self) -> Iterator[Batch]:
        page = self
        yield from page.data
        while page.has_next_page():
            page = page.get_next_page()
            yield from page.data


def check_page(limit: int, after_id: str | None, before_id: str | None) -> None:
    """Check what a page was asked for by. Raises `InvalidRequest` or `NotFound`."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"must be 1 to {MAX_PAGE}", field="limit")
    if after_id is not None and before_id is not None:
        raise InvalidRequest("cannot be combined with after_id", field="before_id")
    for id in (after_id, before_id):
        if id is not None:
            checked_id(id)


@dataclass(frozen=True, slots=True)
class PageRange:
    """The ids of one page, and whether there are further ones."""

    ids: list[str]
    has_more: bool

    @classmethod
    def of(cls, ids: list[str], limit: int, after_id: str | None, before_id: str | None) -> Self:
        """Select the ids after ``after_id``, or right before ``before_id``.

        ``ids`` are those of all jobs, newest first. The given id need not be among them, since
        its job may have expired: ids sort by their time.
        """
        if before_id is not None:
            newer = [id for id in ids if id > before_id]
            return cls(newer[-limit:], len(newer) > limit)
        older = ids if after_id is None else [id for id in ids if id < after_id]
        return cls(older[:limit], len(older) > limit)
