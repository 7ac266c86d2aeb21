"""The behaviour of the demo server, whatever carries its messages."""

from __future__ import annotations

import threading
from typing import Callable, Dict, List, Optional, Sequence, Set

from . import _content as content
from . import _tools as tools
from ._calls import (
    Call,
    Cancellation,
    Cancelled,
    Crash,
    Drop,
    InputRequired,
    Listener,
    Session,
)
from ._wire import (
    BATCHING,
    CLIENT_CAPABILITIES,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    JSON,
    LEGACY,
    LEVELS,
    METHOD_NOT_FOUND,
    MODERN,
    PROTOCOL_VERSION,
    SERVER_INFO,
    UNSUPPORTED_VERSION,
    Message,
    RPCError,
    Send,
    is_request,
    meta_of,
    notification,
    params_of,
    response,
    valid_id,
)

ERAS = ("both", "modern", "legacy")
VERSION = "1.0"
INSTRUCTIONS = "A demo server: try echo, add, count and ask."
TTL_MS = 60_000

Method = Callable[["Demo", Call], Optional[Message]]


class Counters:
    """Counters of what the server has done; any thread may count and read."""

    def __init__(self) -> None:
        names = "in_flight max_in_flight cancelled calls connections progress_sent"
        self._values = dict.fromkeys(names.split(), 0)
        self._values.update(sessions=0, deleted_sessions=0)
        # Guards _values. Nothing else is done while it is held.
        # Taken by every thread that counts.
        self._lock = threading.Lock()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._values[name] += amount

    def call_begins(self) -> None:
        """Count a tool call in."""
        with self._lock:
            values = self._values
            values["calls"] += 1
            values["in_flight"] += 1
            values["max_in_flight"] = max(values["max_in_flight"], values["in_flight"])

    def call_ends(self) -> None:
        """Count a tool call out."""
        self.add("in_flight", -1)

    def snapshot(self) -> Dict[str, int]:
        """Return a copy of all counters."""
        with self._lock:
            return dict(self._values)


class Demo:
    """The demo server without a transport. Threads may share it.

    Args:
        name: The name the server gives itself.
        era: ``both``, ``modern`` (2026-07-28 alone) or ``legacy`` (``initialize``).
        protocol: The newest legacy version it negotiates.
        page_size: Entries per page of a listing; None lists everything at once.

    Raises:
        ValueError: for an unknown era or version, or a page size below 1.
    """

    def __init__(
        self,
        *,
        name: str = "mcpsync-demo",
        era: str = "both",
        protocol: str = LEGACY[0],
        page_size: Optional[int] = None,
    ):
        if era not in ERAS:
            raise ValueError(f"era must be one of {', '.join(ERAS)}: {era!r}")
        if protocol not in LEGACY:
            raise ValueError(f"protocol must be one of {', '.join(LEGACY)}")
        if page_size is not None and page_size < 1:
            raise ValueError("page_size must be at least 1")
        self.name = name
        self.era = era
        self.legacy_versions = LEGACY[LEGACY.index(protocol) :]
        self.counters = Counters()
        self._page_size = page_size
        self._touched: Dict[str, int] = {}
        self._sessions: Set[Session] = set()
        self._listeners: Set[Listener] = set()
        # Guards _touched, _sessions and _listeners.
        # Never held while a message is sent.
        # Taken by every thread that opens, closes or notifies.
        self._lock = threading.Lock()

    @property
    def stats(self) -> Dict[str, int]:
        """The counters, as the tool ``stats`` returns them."""
        return self.counters.snapshot()

    @property
    def supported_versions(self) -> List[str]:
        """The versions of the eras it speaks, newest first."""
        modern = [] if self.era == "legacy" else [MODERN]
        legacy = [] if self.era == "modern" else list(self.legacy_versions)
        return modern + legacy

    # Connections

    def open_session(self, notify: Send) -> Session:
        """Return the state of a new connection.

        Args:
            notify: Sends a message that belongs to no request.
        """
        session = Session(notify)
        with self._lock:
            self._sessions.add(session)
        self.counters.add("sessions")
        return session

    def close_session(self, session: Session) -> bool:
        """End a connection and its calls; false if it had ended already."""
        with self._lock:
            known = session in self._sessions
            self._sessions.discard(session)
        session.close()
        if known:
            self.counters.add("sessions", -1)
        return known

    def end_listens(self) -> None:
        """End every ``subscriptions/listen`` with its response."""
        with self._lock:
            listeners = list(self._listeners)
            self._listeners.clear()
        for listener in listeners:
            listener.finish()

    def close(self) -> None:
        """End all subscriptions and connections; idempotent."""
        self.end_listens()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            self.close_session(session)

    # Messages

    def handle(
        self,
        message: JSON,
        send: Send,
        session: Optional[Session] = None,
        cancellation: Optional[Cancellation] = None,
        drop: Optional[Drop] = None,
    ) -> None:
        """Serve one decoded message; return when it has been answered.

        ``subscriptions/listen`` returns at once: its messages follow from other
        threads.

        Args:
            message: What the client sent, decoded.
            send: Called with each message about it; the response is the last one.
            session: The connection; None for a modern request over HTTP.
            cancellation: Stops a modern request over HTTP, which no id can name.
            drop: Closes the stream that ``send`` writes to, for it to be resumed;
                takes the milliseconds after which the client may do so.

        Raises:
            Crash: the server is to die or to drop the connection, unanswered.
        """
        if not isinstance(message, dict):
            error = RPCError(INVALID_REQUEST, "Invalid request: not an object")
            send(error.answer(None))
        elif is_request(message):
            self._requested(message, send, session, cancellation, drop)
        elif session is not None:
            if "method" in message:
                self._notified(message, session)
            else:
                session.deliver(message)

    def handle_batch(self, batch: Sequence[JSON], session: Session) -> List[Message]:
        """Serve the messages of a 2025-03-26 batch one by one; return all answers.

        Raises:
            RPCError: when the session's version has no batches, or for an empty one.
        """
        if session.version != BATCHING or not batch:
            raise RPCError(INVALID_REQUEST, "Invalid request: no batches here")
        answers: List[Message] = []
        for message in batch:
            self.handle(message, answers.append, session)
        return answers

    def streams(self, message: Message, modern: bool) -> bool:
        """Tell whether a request is answered by an event stream over HTTP."""
        method = message.get("method")
        if method == "subscriptions/listen":
            return modern
        name = params_of(message).get("name")
        tool = tools.TOOLS.get(name) if isinstance(name, str) else None
        return method == "tools/call" and tool is not None and tool.streams(modern)

    def is_modern(self, message: Message) -> bool:
        """Tell whether a message claims a protocol version of its own."""
        return self.era != "legacy" and PROTOCOL_VERSION in meta_of(message)

    def check_version(self, message: Message) -> None:
        """Check what every modern request carries in its ``_meta``.

        Raises:
            RPCError: with -32602 when a field is missing, -32022 for a version that
                is not served.
        """
        meta = meta_of(message)
        requested = meta.get(PROTOCOL_VERSION)
        if not isinstance(requested, str):
            raise RPCError(INVALID_PARAMS, f"_meta lacks {PROTOCOL_VERSION}")
        if requested != MODERN:
            raise self.unsupported(requested)
        if not isinstance(meta.get(CLIENT_CAPABILITIES), dict):
            raise RPCError(INVALID_PARAMS, f"_meta lacks {CLIENT_CAPABILITIES}")

    def unsupported(self, requested: JSON) -> RPCError:
        """Return the error for a protocol version that is not served."""
        supported = self.supported_versions
        text = f"Unsupported protocol version; supported: {', '.join(supported)}"
        data = {"supported": supported, "requested": requested}
        return RPCError(UNSUPPORTED_VERSION, text, data)

    def unsupported_by(self, initialize: Message) -> RPCError:
        """Return the error for an ``initialize`` that is not served."""
        return self.unsupported(params_of(initialize).get("protocolVersion"))

    def _requested(
        self,
        message: Message,
        send: Send,
        session: Optional[Session],
        cancellation: Optional[Cancellation],
        drop: Optional[Drop],
    ) -> None:
        request_id = message["id"]
        if not valid_id(request_id):
            error = RPCError(INVALID_REQUEST, "Invalid request: bad id")
            send(error.answer(None))
            return
        if session is not None:
            cancellation = session.begin(request_id)
        cancellation = cancellation or Cancellation()
        answered = True
        try:
            version = self._judge(message, session)
            call = Call(self, message, send, session, cancellation, version, drop)
            result = self._serve(call)
            answered = result is not None
            if result is not None:
                send(response(request_id, result))
        except RPCError as exc:
            send(exc.answer(request_id))
        except Cancelled:
            self.counters.add("cancelled")
        except Crash:
            raise
        except Exception as exc:
            # Whatever goes wrong, a client must not wait for its answer for ever.
            text = f"Internal error: {type(exc).__name__}"
            send(RPCError(INTERNAL_ERROR, text).answer(request_id))
        finally:
            if answered and session is not None:
                session.end(request_id)

    def _judge(self, message: Message, session: Optional[Session]) -> str:
        """Return the version a request is served by; each is judged alone.

        Raises:
            RPCError: when it cannot be served.
        """
        method = message["method"]
        legacy = self.era != "modern" and session is not None
        if self.is_modern(message) or not (legacy or method == "initialize"):
            self.check_version(message)
            return MODERN
        if self.era == "modern" or session is None:
            raise self.unsupported_by(message)
        if method in ("initialize", "ping", "server/discover"):
            return session.version or self.legacy_versions[0]
        if session.version is None:
            raise RPCError(INVALID_REQUEST, "Not initialized: send initialize first")
        return session.version

    def _serve(self, call: Call) -> Optional[Message]:
        methods = MODERN_METHODS if call.modern else LEGACY_METHODS
        method = methods.get(call.message["method"])
        if method is None:
            name = call.message["method"]
            raise RPCError(METHOD_NOT_FOUND, f"Method not found: {name}")
        try:
            result = method(self, call)
        except InputRequired as exc:
            return self._signed(exc.result)
        if result is None or not call.modern:
            return result
        return self._signed({"resultType": "complete", **result})

    def _signed(self, result: Message) -> Message:
        return {**result, "_meta": {SERVER_INFO: self._info()}}

    def _info(self) -> Message:
        return {"name": self.name, "version": VERSION}

    def _notified(self, message: Message, session: Session) -> None:
        if message["method"] == "notifications/cancelled":
            session.cancel(params_of(message).get("requestId"))

    # Lifecycle

    def _discover(self, call: Call) -> Message:
        result: Message = {"supportedVersions": self.supported_versions}
        result["capabilities"] = self._capabilities(call)
        result["instructions"] = INSTRUCTIONS
        return {**result, "ttlMs": TTL_MS, "cacheScope": "public"}

    def _initialize(self, call: Call) -> Message:
        session = call.session
        if session is None or session.version is not None:
            raise RPCError(INVALID_REQUEST, "Already initialized")
        requested = call.params.get("protocolVersion")
        if not isinstance(requested, str):
            raise RPCError(INVALID_PARAMS, "protocolVersion must be a string")
        known = requested in self.legacy_versions
        version = requested if known else self.legacy_versions[0]
        declared = call.params.get("capabilities")
        session.capabilities = declared if isinstance(declared, dict) else {}
        session.version = call.version = version
        return {
            "protocolVersion": version,
            "capabilities": self._capabilities(call),
            "serverInfo": self._info(),
            "instructions": INSTRUCTIONS,
        }

    def _capabilities(self, call: Call) -> Message:
        capabilities: Message = {
            "tools": {"listChanged": True},
            "resources": {"subscribe": True},
            "prompts": {},
        }
        if call.version >= "2025-03-26":
            capabilities["completions"] = {}
        capabilities["logging"] = {}
        return capabilities

    def _ping(self, call: Call) -> Message:
        return {}

    def _set_level(self, call: Call) -> Message:
        level = call.params.get("level")
        if level not in LEVELS or call.session is None:
            raise RPCError(INVALID_PARAMS, f"Invalid log level: {level}")
        call.session.log_level = level
        return {}

    # Listings

    def _list_tools(self, call: Call) -> Message:
        listed = [tools.describe(tool, call.version) for tool in tools.TOOLS.values()]
        return self._page(call, "tools", listed)

    def _list_resources(self, call: Call) -> Message:
        return self._page(call, "resources", content.RESOURCES)

    def _list_templates(self, call: Call) -> Message:
        return self._page(call, "resourceTemplates", content.TEMPLATES)

    def _list_prompts(self, call: Call) -> Message:
        return self._page(call, "prompts", content.PROMPTS)

    def _page(self, call: Call, key: str, entries: List[Message]) -> Message:
        """Return one page. The first cursor is the empty string: it is a valid one."""
        size = self._page_size or max(1, len(entries))
        cursors = [None, ""]
        cursors += [f"page-{number}" for number in range(2, -(-len(entries) // size))]
        cursor = call.params.get("cursor")
        number = cursors.index(cursor) if cursor in cursors else len(entries)
        if number and number * size >= len(entries):
            raise RPCError(INVALID_PARAMS, "Invalid cursor")
        result: Message = {key: entries[number * size : (number + 1) * size]}
        if (number + 1) * size < len(entries):
            result["nextCursor"] = cursors[number + 1]
        return self._cacheable(call, result)

    def _cacheable(self, call: Call, result: Message) -> Message:
        if call.modern:
            result = {**result, "ttlMs": TTL_MS, "cacheScope": "public"}
        return result

    # Features

    def _call_tool(self, call: Call) -> Message:
        if call.params.get("name") == "stats":
            return tools.call_tool(call)
        self.counters.call_begins()
        try:
            return tools.call_tool(call)
        finally:
            self.counters.call_ends()

    def _read_resource(self, call: Call) -> Message:
        return self._cacheable(call, content.read_resource(call))

    def _get_prompt(self, call: Call) -> Message:
        return content.get_prompt(call)

    def _complete(self, call: Call) -> Message:
        return content.complete(call)

    def _subscribe(self, call: Call) -> Message:
        uri = call.params.get("uri")
        if not isinstance(uri, str) or call.session is None:
            raise RPCError(INVALID_PARAMS, "uri must be a string")
        if call.message["method"] == "resources/subscribe":
            call.session.subscriptions.add(uri)
        else:
            call.session.subscriptions.discard(uri)
        return {}

    def _listen(self, call: Call) -> None:
        wanted = call.params.get("notifications")
        if not isinstance(wanted, dict):
            raise RPCError(INVALID_PARAMS, "notifications must be an object")
        listener = Listener(call, self._accept(wanted))
        listener.acknowledge(lambda: self._add_listener(listener))
        call.cancellation.on_cancel(lambda: self._drop_listener(listener, call))

    def _accept(self, wanted: Message) -> Message:
        """Return the part of a filter that this server can honour."""
        accepted: Message = {}
        if wanted.get("toolsListChanged") is True:
            accepted["toolsListChanged"] = True
        uris = wanted.get("resourceSubscriptions")
        if isinstance(uris, list):
            known = [u for u in uris if isinstance(u, str) and content.exists(u)]
            accepted["resourceSubscriptions"] = known
        return accepted

    def _add_listener(self, listener: Listener) -> None:
        with self._lock:
            self._listeners.add(listener)

    def _drop_listener(self, listener: Listener, call: Call) -> None:
        with self._lock:
            self._listeners.discard(listener)
        listener.stop()
        if call.session is not None:
            call.session.end(call.id)

    # Changes

    def touched(self, uri: str) -> int:
        """Return how many times a resource has been changed."""
        with self._lock:
            return self._touched.get(uri, 0)

    def touch(self, uri: str) -> int:
        """Change a resource, tell all who listen, return the number of changes."""
        with self._lock:
            self._touched[uri] = count = self._touched.get(uri, 0) + 1
            sessions = [session for session in self._sessions if session.version]
            listeners = list(self._listeners)
        updated = "notifications/resources/updated"
        changed = "notifications/tools/list_changed"
        for session in sessions:
            if uri in session.subscriptions:
                session.notify(notification(updated, {"uri": uri}))
            session.notify(notification(changed))
        for listener in listeners:
            if listener.wants("resourceSubscriptions", uri):
                listener.notify(updated, {"uri": uri})
            if listener.wants("toolsListChanged", None):
                listener.notify(changed, {})
        return count


_SHARED_METHODS: Dict[str, Method] = {
    "tools/list": Demo._list_tools,
    "tools/call": Demo._call_tool,
    "resources/list": Demo._list_resources,
    "resources/templates/list": Demo._list_templates,
    "resources/read": Demo._read_resource,
    "prompts/list": Demo._list_prompts,
    "prompts/get": Demo._get_prompt,
    "completion/complete": Demo._complete,
}
MODERN_METHODS: Dict[str, Method] = {
    **_SHARED_METHODS,
    "server/discover": Demo._discover,
    "subscriptions/listen": Demo._listen,
}
LEGACY_METHODS: Dict[str, Method] = {
    **_SHARED_METHODS,
    "initialize": Demo._initialize,
    "ping": Demo._ping,
    "logging/setLevel": Demo._set_level,
    "resources/subscribe": Demo._subscribe,
    "resources/unsubscribe": Demo._subscribe,
}
