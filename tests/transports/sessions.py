"""A legacy server with sessions, for the tests of the HTTP transports."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional

from mcpsync._deadline import Deadline
from mcpsync.transports.base import Profile
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes.scripted_http import (
    Recorded,
    Reply,
    answer_to,
    json_reply,
)
from .calling import (
    LEGACY,
    SESSION,
    ask,
    initialize,
)

LISTENING = Profile(
    headers=LEGACY.http_headers(),
    session=True,
    listen_stream=True,
    delete_on_close=True,
)
INITIALIZED = LEGACY.notification("notifications/initialized")
HELLO: Dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "scripted", "version": "1"},
}
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


class Sessions:
    """A legacy server with session ids, for a :class:`ScriptedServer`.

    Attributes:
        known: the session ids that it knows.
        given: how many it has given away.
    """

    def __init__(
        self, get: Optional[Callable[[Recorded], Reply]] = None, delete: int = 200
    ) -> None:
        self.known: List[str] = []
        self.given = 0
        self.get = get or (lambda request: Reply(405))
        self.delete = delete
        self.slowness = 0.0

    def __call__(self, request: Recorded) -> Reply:
        if request.rpc_method == "server/discover":
            return Reply(400, body=b"no session")
        if request.rpc_method == "initialize":
            self.given += 1
            self.known.append("session-%d" % self.given)
            time.sleep(self.slowness)
            headers = {"Mcp-Session-Id": "session-%d" % self.given}
            return json_reply(answer_to(request, HELLO), headers=headers)
        if request.headers["Mcp-Session-Id"] is None:
            return Reply(400, body=b"a session id is required")
        if request.headers["Mcp-Session-Id"] not in self.known:
            return Reply(404)
        return self.of_session(request)

    def of_session(self, request: Recorded) -> Reply:
        if request.method == "GET":
            return self.get(request)
        if request.method == "DELETE":
            return Reply(self.delete)
        if request.rpc_method is None or request.rpc_method.startswith("notif"):
            return Reply(202)
        return json_reply(answer_to(request, {"content": []}))


def shake_hands(transport: StreamableHTTPTransport, profile: Profile = SESSION) -> None:
    ask(transport, initialize())
    transport.send(INITIALIZED, Deadline.after(5))
    transport.establish(profile)
