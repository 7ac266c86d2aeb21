"""A web site on the loopback interface, and a resolver that says what a test wants."""

from __future__ import annotations

import socket
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

import pytest

from mcpsync._deadline import Deadline

from ..fakes.scripted_http import Recorded, Reply, ScriptedServer, json_reply

__all__ = ["Resolver", "Site", "html", "soon"]

Answer = Union[Reply, Callable[[Recorded], Reply], Mapping[str, Any]]


def soon() -> Deadline:
    """Return a deadline that only a broken implementation reaches."""
    return Deadline.after(20)


def html(status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "text/html"}, b"<!doctype html><p>Hello")


class Site:
    """Answers by path, 404 where it has nothing. A context manager.

    Attributes:
        routes: path with query to a reply, to a function of the request, or to a
            mapping that is sent as JSON.
        base: the site's origin.
        url: that of the MCP endpoint, which is the path ``/mcp`` by custom.
    """

    def __init__(self, routes: Optional[Dict[str, Answer]] = None) -> None:
        self.routes: Dict[str, Answer] = dict(routes or {})
        self.server = ScriptedServer(self._reply)
        self.url = self.server.url
        self.base = self.url[: -len("/mcp")]

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.server.__exit__(*exc_info)

    @property
    def requests(self) -> List[Recorded]:
        return self.server.requests

    @property
    def asked(self) -> List[str]:
        """Return the paths that were asked for, in order."""
        return [request.path for request in self.server.requests]

    def _reply(self, request: Recorded) -> Reply:
        answer = self.routes.get(request.path, Reply(404))
        if isinstance(answer, Reply):
            return answer
        return answer(request) if callable(answer) else json_reply(answer)


class Resolver:
    """Stands in for the operating system's resolver.

    Attributes:
        names: a host's addresses; a list of lists is one answer after another, of
            which the last stays. Numeric addresses resolve to themselves.
        asked: the hosts that were looked up.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: Dict[str, List[Any]] = {}
        self.asked: List[str] = []
        self._real = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> List[Any]:
        if host not in self.names:
            try:
                return self._real(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
                )
            except OSError:
                raise socket.gaierror(socket.EAI_NONAME, "no such host") from None
        self.asked.append(host)
        addresses = self.names[host]
        if addresses and isinstance(addresses[0], list):
            addresses = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [_entry(address, port) for address in addresses]


def _entry(address: str, port: int) -> Any:
    if ":" in address:
        place: Any = (address, port, 0, 0)
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", place)
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
