"""Listings: page by page, lazily, or all at once, and never for ever."""

from __future__ import annotations

from typing import (
    Any,
    Callable,
    Generic,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Type,
    TypeVar,
    Union,
)

from ._deadline import Deadline, Timeout
from ._requests import Plan
from .exceptions import InvalidArguments, RemoteProtocolError
from .transports.base import Limits
from .types import (
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    Prompt,
    Resource,
    ResourceTemplate,
    WireObject,
)

__all__ = ["Listings", "Pager", "Run", "Seconds"]

JSON = Any
Seconds = Union[None, float, Timeout]
Item = TypeVar("Item")
Page = TypeVar("Page", bound=WireObject)

#: Carries out a plan within a timeout, or within what is left of a deadline.
Run = Callable[[Plan, Union[Seconds, Deadline]], Mapping[str, JSON]]


class Pager(Generic[Item, Page]):
    """One kind of listing of one server. Safe for any number of threads.

    Args:
        server: the server's name, for messages.
        run: carries out a request.
        limits: how many pages and items a listing may have.
        kind: the class of one page.
        method: the method that returns a page.
        field: the field of a page that holds its items.
        patient: whether a busy server is asked again.
    """

    def __init__(
        self,
        server: str,
        run: Run,
        limits: Limits,
        kind: Type[Page],
        method: str,
        field: str,
        patient: bool = False,
    ) -> None:
        self._server = server
        self._run = run
        self._limits = limits
        self._kind = kind
        self._method = method
        self._field = field
        self._patient = patient

    def page(
        self, cursor: Optional[str], timeout: Union[Seconds, Deadline] = None
    ) -> Page:
        """Return one page."""
        params = None
        if cursor is not None:
            if not isinstance(cursor, str):
                raise InvalidArguments(
                    "the cursor must be a string, not %s" % type(cursor).__name__
                )
            params = {"cursor": cursor}
        plan = Plan(self._method, params, patient=self._patient)
        return self._kind.from_wire(self._run(plan, timeout))

    def all(self, deadline: Deadline) -> List[Item]:
        """Return the items of all pages, under one deadline."""
        return list(self.iter(deadline))

    def iter(self, timeout: Union[Seconds, Deadline]) -> Iterator[Item]:
        """Yield the items; a timeout is for each page, a deadline for all."""
        cursor: Optional[str] = None
        seen: Set[str] = set()
        count = 0
        while True:
            page = self.page(cursor, timeout)
            for item in getattr(page, self._field):
                count += 1
                yield item
            cursor = getattr(page, "next_cursor")
            # The empty string is a cursor like any other.
            if cursor is None:
                return
            self._check(cursor, seen, count)
            seen.add(cursor)

    def _check(self, cursor: str, seen: Set[str], count: int) -> None:
        if cursor in seen:
            raise RemoteProtocolError(
                "the server's listing of %s goes round in circles: a cursor came twice"
                % self._field,
                server=self._server,
                method=self._method,
            )
        if len(seen) + 1 >= self._limits.pages or count > self._limits.items:
            raise RemoteProtocolError(
                "the server's listing of %s does not end: %d items on %d pages so far"
                % (self._field, count, len(seen) + 1),
                server=self._server,
                method=self._method,
            )


class Listings:
    """The listings of one server but that of its tools, which remembers more."""

    def __init__(self, server: str, run: Run, limits: Limits) -> None:
        facts = (server, run, limits)
        self.resources: Pager[Resource, ListResourcesResult] = Pager(
            *facts, ListResourcesResult, "resources/list", "resources"
        )
        self.templates: Pager[ResourceTemplate, ListResourceTemplatesResult] = Pager(
            *facts,
            ListResourceTemplatesResult,
            "resources/templates/list",
            "resource_templates",
        )
        self.prompts: Pager[Prompt, ListPromptsResult] = Pager(
            *facts, ListPromptsResult, "prompts/list", "prompts"
        )
