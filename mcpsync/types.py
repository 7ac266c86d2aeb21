"""The objects of the protocol that a program sees: tools, content, results, questions.

Each class has the specification's name and fields, in snake case. One class serves
all protocol revisions: what came later is optional. Instances are frozen and may be
shared by threads. ``from_wire`` reads what a server sent and raises
:class:`mcpsync.exceptions.UnexpectedResult` when it does not fit; unknown fields
survive in ``raw``, unknown kinds of content become :class:`UnknownContent`.

All text, names and hints in these objects are the server's own words. Nothing in
them is cleaned or verified: clean them before a terminal shows them, and base no
decision about safety on them unless the server is trusted.
"""

from __future__ import annotations

import os
import threading
from dataclasses import field, replace
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

from ._content import (
    ANNOTATIONS,
    Annotations,
    AudioContent,
    BlobResourceContents,
    ContentBlock,
    CreateMessageResult,
    EmbeddedResource,
    Icon,
    ImageContent,
    Object,
    PathLike,
    PromptMessage,
    Resource,
    ResourceContents,
    ResourceLink,
    SamplingMessage,
    TextContent,
    TextResourceContents,
    ToolResultContent,
    ToolUseContent,
    UnknownContent,
    content_from_wire,
    read_blocks,
    read_contents,
    text_of,
)
from ._text import clean
from ._wire import (
    ANY,
    FLAG,
    INTEGER,
    JSON,
    LIST,
    META,
    NUMBER,
    OBJECT,
    STRING,
    STRINGS,
    TOKEN,
    Mismatch,
    WireObject,
    list_of,
    many,
    nested,
    one_of,
    read_object,
    record,
    wire,
    within,
)
from .exceptions import ToolError, UnexpectedResult

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Annotations",
    "AudioContent",
    "BlobResourceContents",
    "CallToolResult",
    "CompleteResult",
    "ContentBlock",
    "CreateMessageRequest",
    "CreateMessageResult",
    "DiscoverResult",
    "ElicitRequest",
    "ElicitResult",
    "EmbeddedResource",
    "GetPromptResult",
    "Icon",
    "ImageContent",
    "Implementation",
    "InitializeResult",
    "JSON",
    "ListPromptsResult",
    "ListResourceTemplatesResult",
    "ListResourcesResult",
    "ListRootsResult",
    "ListToolsResult",
    "LoggingMessage",
    "ProgressNotification",
    "Prompt",
    "PromptArgument",
    "PromptMessage",
    "ReadResourceResult",
    "Resource",
    "ResourceContents",
    "ResourceLink",
    "ResourceTemplate",
    "Root",
    "SamplingMessage",
    "ServerCapabilities",
    "ServerNotification",
    "TextContent",
    "TextResourceContents",
    "Tool",
    "ToolAnnotations",
    "ToolResultContent",
    "ToolUseContent",
    "UnknownContent",
    "WireObject",
    "content_from_wire",
]

#: Where a 2026-07-28 server says who it is, in the `_meta` of its results.
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"


# --- the server ------------------------------------------------------------------


@record(frozen=True, repr=False, eq=False)
class Implementation(WireObject):
    """The name and version of a client or a server, as it gives them itself."""

    name: str = field(metadata=STRING)
    version: str = field(metadata=STRING)
    title: Optional[str] = field(default=None, metadata=STRING)
    description: Optional[str] = field(default=None, metadata=STRING)
    website_url: Optional[str] = field(default=None, metadata=STRING)
    icons: List[Icon] = field(default_factory=list, metadata=many(Icon))
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class ServerCapabilities(WireObject):
    """What the server offers. An object, even an empty one, means that it does."""

    tools: Optional[Object] = field(default=None, metadata=OBJECT)
    resources: Optional[Object] = field(default=None, metadata=OBJECT)
    prompts: Optional[Object] = field(default=None, metadata=OBJECT)
    logging: Optional[Object] = field(default=None, metadata=OBJECT)
    completions: Optional[Object] = field(default=None, metadata=OBJECT)
    tasks: Optional[Object] = field(default=None, metadata=OBJECT)
    experimental: Optional[Object] = field(default=None, metadata=OBJECT)
    extensions: Optional[Object] = field(default=None, metadata=OBJECT)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    def supports(self, capability: str, *features: str) -> bool:
        """Tell whether the server declared a capability, or a feature within it.

        ``supports("resources", "subscribe")``; unknown names are looked up too.
        """
        node: JSON = self.to_wire()
        for name in (capability, *features):
            node = node.get(name) if isinstance(node, Mapping) else None
        return node is not None and node is not False


# --- what a server lists ----------------------------------------------------------


@record(frozen=True, repr=False, eq=False)
class ToolAnnotations(WireObject):
    """Hints about what a tool does (2025-03-26, server/tools).

    The fields are as received, None where the server says nothing; the properties
    apply the specification's defaults. A server that is not trusted may lie.
    """

    title: Optional[str] = field(default=None, metadata=STRING)
    read_only_hint: Optional[bool] = field(default=None, metadata=FLAG)
    destructive_hint: Optional[bool] = field(default=None, metadata=FLAG)
    idempotent_hint: Optional[bool] = field(default=None, metadata=FLAG)
    open_world_hint: Optional[bool] = field(default=None, metadata=FLAG)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def read_only(self) -> bool:
        """Whether the tool changes nothing; false unless the server says so."""
        return bool(self.read_only_hint)

    @property
    def destructive(self) -> bool:
        """Whether it may delete or overwrite; true unless the server denies it.

        A tool that only reads is not destructive unless the server says both.
        """
        if self.destructive_hint is None:
            return not self.read_only
        return self.destructive_hint

    @property
    def idempotent(self) -> bool:
        """Whether a repeated call has no further effect; false unless declared."""
        return bool(self.idempotent_hint)

    @property
    def open_world(self) -> bool:
        """Whether it talks to the outside, as a search does; true unless denied."""
        return self.open_world_hint is not False


@record(frozen=True, repr=False, eq=False)
class Tool(WireObject):
    """A tool that the server offers (server/tools).

    Attributes:
        name: as it is called; case matters.
        input_schema: the JSON Schema of the arguments, verbatim.
        output_schema: the JSON Schema of the structured content, verbatim.
        annotations: the server's hints; empty ones when it gives none.
        execution: 2025-11-25: how it may be run, verbatim.
    """

    name: str = field(metadata=STRING)
    input_schema: Object = field(metadata=OBJECT)
    title: Optional[str] = field(default=None, metadata=STRING)
    description: Optional[str] = field(default=None, metadata=STRING)
    output_schema: Optional[Object] = field(default=None, metadata=OBJECT)
    annotations: ToolAnnotations = field(
        default_factory=ToolAnnotations, metadata=nested(ToolAnnotations)
    )
    execution: Optional[Object] = field(default=None, metadata=OBJECT)
    icons: List[Icon] = field(default_factory=list, metadata=many(Icon))
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def display_name(self) -> str:
        """The name to show to a person: the title if there is one."""
        return self.title or self.annotations.title or self.name


@record(frozen=True, repr=False, eq=False)
class ResourceTemplate(WireObject):
    """A pattern for the URIs of resources: `uri_template` follows RFC 6570."""

    uri_template: str = field(metadata=STRING)
    name: str = field(metadata=STRING)
    title: Optional[str] = field(default=None, metadata=STRING)
    description: Optional[str] = field(default=None, metadata=STRING)
    mime_type: Optional[str] = field(default=None, metadata=STRING)
    annotations: Optional[Annotations] = field(default=None, metadata=ANNOTATIONS)
    icons: List[Icon] = field(default_factory=list, metadata=many(Icon))
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class PromptArgument(WireObject):
    """An argument of a prompt; its value is always a string."""

    name: str = field(metadata=STRING)
    title: Optional[str] = field(default=None, metadata=STRING)
    description: Optional[str] = field(default=None, metadata=STRING)
    required: bool = field(default=False, metadata=FLAG)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class Prompt(WireObject):
    """A prompt that a person may pick (server/prompts)."""

    name: str = field(metadata=STRING)
    title: Optional[str] = field(default=None, metadata=STRING)
    description: Optional[str] = field(default=None, metadata=STRING)
    arguments: List[PromptArgument] = field(
        default_factory=list, metadata=many(PromptArgument)
    )
    icons: List[Icon] = field(default_factory=list, metadata=many(Icon))
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


# --- results: listings ------------------------------------------------------------


class _Listing(WireObject):
    """One page of a listing, in which a bad item does not hide the good ones.

    The pages share these attributes:

    * `next_cursor`: opaque, for the next page. Only None ends the listing: an empty
      string is a cursor as well (server/utilities/pagination).
    * `ttl_ms`, `cache_scope`: how long, in milliseconds, and for whom the page may be
      kept (2026-07-28, server/utilities/caching).
    * `invalid`: the items that could not be read: index and reason. `raw` has them,
      `to_wire` leaves them out.
    """

    _items: ClassVar[Tuple[str, Type[WireObject]]]

    @classmethod
    def _values(cls, value: JSON) -> Dict[str, JSON]:
        values = super()._values(value)
        attribute, kind = cls._items
        good: List[WireObject] = []
        for index, item in enumerate(values[attribute]):
            try:
                good.append(kind._read(item))
            except Mismatch as mismatch:
                reason = mismatch.describe("%s[%d]" % (attribute, index))
                values["invalid"].append((index, reason))
        values[attribute] = good
        return values


@record(frozen=True, repr=False, eq=False)
class ListToolsResult(_Listing):
    """One page of ``tools/list``."""

    _items = ("tools", Tool)

    tools: List[Tool] = field(metadata=LIST)
    next_cursor: Optional[str] = field(default=None, metadata=STRING)
    ttl_ms: Optional[float] = field(default=None, metadata=NUMBER)
    cache_scope: Optional[str] = field(default=None, metadata=STRING)
    invalid: List[Tuple[int, str]] = field(default_factory=list, compare=False)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    def with_tools(
        self, tools: Sequence[Tool], refused: Iterable[Tuple[Tool, str]]
    ) -> ListToolsResult:
        """Return this page with these tools, and others of it moved to `invalid`.

        Args:
            tools: the tools that stay.
            refused: the tools that go, each with the reason.
        """
        received = self.raw.get("tools", [tool.raw for tool in self.tools])
        places = {id(item): index for index, item in enumerate(received)}
        gone = [(places.get(id(tool.raw), -1), reason) for tool, reason in refused]
        return replace(self, tools=list(tools), invalid=sorted(self.invalid + gone))


@record(frozen=True, repr=False, eq=False)
class ListResourcesResult(_Listing):
    """One page of ``resources/list``."""

    _items = ("resources", Resource)

    resources: List[Resource] = field(metadata=LIST)
    next_cursor: Optional[str] = field(default=None, metadata=STRING)
    ttl_ms: Optional[float] = field(default=None, metadata=NUMBER)
    cache_scope: Optional[str] = field(default=None, metadata=STRING)
    invalid: List[Tuple[int, str]] = field(default_factory=list, compare=False)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class ListResourceTemplatesResult(_Listing):
    """One page of ``resources/templates/list``."""

    _items = ("resource_templates", ResourceTemplate)

    resource_templates: List[ResourceTemplate] = field(metadata=LIST)
    next_cursor: Optional[str] = field(default=None, metadata=STRING)
    ttl_ms: Optional[float] = field(default=None, metadata=NUMBER)
    cache_scope: Optional[str] = field(default=None, metadata=STRING)
    invalid: List[Tuple[int, str]] = field(default_factory=list, compare=False)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class ListPromptsResult(_Listing):
    """One page of ``prompts/list``."""

    _items = ("prompts", Prompt)

    prompts: List[Prompt] = field(metadata=LIST)
    next_cursor: Optional[str] = field(default=None, metadata=STRING)
    ttl_ms: Optional[float] = field(default=None, metadata=NUMBER)
    cache_scope: Optional[str] = field(default=None, metadata=STRING)
    invalid: List[Tuple[int, str]] = field(default_factory=list, compare=False)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


# --- results: the others ----------------------------------------------------------


@record(frozen=True, repr=False, eq=False)
class CallToolResult(WireObject):
    """What a tool answered (server/tools).

    Attributes:
        content: the content blocks, in the server's order.
        structured_content: any JSON value; None also when there is none.
        is_error: the tool failed; `content` says why, for the model to read.
    """

    content: List[ContentBlock] = field(metadata=wire(read_blocks))
    structured_content: JSON = field(default=None, metadata=ANY)
    is_error: bool = field(default=False, metadata=FLAG)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def _values(cls, value: JSON) -> Dict[str, JSON]:
        # `content` is required, but there are servers that send structured content
        # alone; other clients take that, and nothing is lost by it.
        bare = "structuredContent" in read_object(value)
        if bare and value.get("content") is None:
            values = super()._values({**value, "content": []})
            values["raw"] = value
            return values
        return super()._values(value)

    @property
    def text(self) -> str:
        """The text blocks, joined by newlines."""
        return text_of(self.content)

    @property
    def data(self) -> JSON:
        """The structured content, or None."""
        return self.structured_content

    @property
    def has_structured_content(self) -> bool:
        """Whether there is structured content; it may be ``null`` (2026-07-28)."""
        return self.structured_content is not None or "structuredContent" in self.raw

    def raise_for_error(self) -> CallToolResult:
        """Return this result, unless the tool reported failure.

        Raises:
            ToolError: `is_error` is true. Its message is the text of this result,
                its `result` is this result.
        """
        if self.is_error:
            text = clean(self.text) or "the tool reported failure without a text"
            raise ToolError(text, self)
        return self


@record(frozen=True, repr=False, eq=False)
class ReadResourceResult(WireObject):
    """What ``resources/read`` answered: one or more texts or blobs."""

    contents: List[ResourceContents] = field(metadata=wire(list_of(read_contents)))
    ttl_ms: Optional[float] = field(default=None, metadata=NUMBER)
    cache_scope: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The texts among the contents, joined by newlines."""
        return text_of(self.contents)

    def save(self, path: PathLike) -> Path:
        """Write the contents to a file or into a directory.

        One item is written as its own `save` does, and the path of its file is
        returned. Several go into a directory, which is returned.

        Raises:
            UnexpectedResult: there are no contents, or one is not valid base64.
            NotADirectoryError: there are several, and `path` is not a directory.
            OSError: a file cannot be written.
        """
        from pathlib import Path

        if not self.contents:
            raise UnexpectedResult("the resource has no contents to save")
        if len(self.contents) == 1:
            return self.contents[0].save(path)
        if not os.path.isdir(path):
            count = len(self.contents)
            raise NotADirectoryError("%d contents need a directory: %s" % (count, path))
        for item in self.contents:
            item.save(path)
        return Path(path)


@record(frozen=True, repr=False, eq=False)
class GetPromptResult(WireObject):
    """What ``prompts/get`` answered: messages for a model."""

    messages: List[PromptMessage] = field(metadata=many(PromptMessage))
    description: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class CompleteResult(WireObject):
    """What ``completion/complete`` answered (server/utilities/completion).

    Attributes:
        values: the suggestions, at most 100 of them by the specification.
        total: how many there are in all, if known.
        has_more: whether there are more than these; None when not said.
    """

    values: List[str] = field(metadata=STRINGS)
    total: Optional[int] = field(default=None, metadata=INTEGER)
    has_more: Optional[bool] = field(default=None, metadata=FLAG)
    meta: Optional[Object] = field(default=None, repr=False)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    # On the wire all but `_meta` is one level deeper, under `completion`.

    @classmethod
    def _values(cls, value: JSON) -> Dict[str, JSON]:
        if read_object(value).get("completion") is None:
            raise Mismatch("is missing", ".completion")
        values = within(".completion", super()._values, value["completion"])
        values["meta"] = _read_meta(value)
        values["raw"] = value
        return values

    def to_wire(self) -> Dict[str, JSON]:
        """Return the JSON object, in which the values are under ``completion``."""
        target = dict(self.raw)
        target["completion"] = self._fill(dict(target.get("completion") or {}))
        if self.meta is not None:
            target["_meta"] = self.meta
        elif target.get("_meta") is not None:
            del target["_meta"]
        return target


def _read_meta(value: JSON) -> Optional[Object]:
    meta: Optional[Object] = value.get("_meta")
    return None if meta is None else within("._meta", read_object, meta)


@record(frozen=True, repr=False, eq=False)
class DiscoverResult(WireObject):
    """What ``server/discover`` answered (2026-07-28, server/discover)."""

    supported_versions: List[str] = field(metadata=STRINGS)
    capabilities: ServerCapabilities = field(metadata=nested(ServerCapabilities))
    instructions: Optional[str] = field(default=None, metadata=STRING)
    ttl_ms: Optional[float] = field(default=None, metadata=NUMBER)
    cache_scope: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def server_info(self) -> Optional[Implementation]:
        """Who the server says it is; None when it does not, or not properly."""
        # Servers older than the final text have it beside `capabilities`.
        info = (self.meta or {}).get(_SERVER_INFO, self.raw.get("serverInfo"))
        try:
            return Implementation._read(info)
        except Mismatch:
            return None


@record(frozen=True, repr=False, eq=False)
class InitializeResult(WireObject):
    """What ``initialize`` answered (until 2025-11-25, basic/lifecycle)."""

    protocol_version: str = field(metadata=STRING)
    capabilities: ServerCapabilities = field(metadata=nested(ServerCapabilities))
    server_info: Implementation = field(metadata=nested(Implementation))
    instructions: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


# --- what a server asks -----------------------------------------------------------


class _Question(WireObject):
    """A question from a server; `server` and `cancelled` are not on the wire."""

    def __getstate__(self) -> Dict[str, JSON]:
        # An Event cannot be pickled, nor could it be set from another process.
        return {key: item for key, item in vars(self).items() if key != "cancelled"}

    def __setstate__(self, state: Mapping[str, JSON]) -> None:
        self.__dict__.update(state)
        self.__dict__["cancelled"] = threading.Event()


@record(frozen=True, repr=False, eq=False)
class ElicitRequest(_Question):
    """A question to the user (client/elicitation).

    Attributes:
        message: what to ask.
        mode: ``"form"``, or ``"url"``: the user is to visit a page. Show its whole
            address first, open it only when told to, and prefetch nothing.
        requested_schema: form: a JSON Schema of one flat object.
        url: url: the page.
        elicitation_id: url: an opaque id (2025-11-25 only).
        server: the name of the server that asks; show it.
        cancelled: set when the answer is no longer wanted. A copy or a pickle has
            an event of its own.
    """

    message: str = field(metadata=STRING)
    mode: str = field(default="form", metadata=STRING)
    requested_schema: Optional[Object] = field(default=None, metadata=OBJECT)
    url: Optional[str] = field(default=None, metadata=STRING)
    elicitation_id: Optional[str] = field(default=None, metadata=STRING)
    server: str = field(default="", repr=False, compare=False)
    cancelled: threading.Event = field(
        default_factory=threading.Event, repr=False, compare=False
    )
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def _values(cls, value: JSON) -> Dict[str, JSON]:
        values = super()._values(value)
        if values["mode"] == "url" and values["url"] is None:
            raise Mismatch("is missing", ".url")
        return values


def _read_answers(value: JSON) -> JSON:
    if not isinstance(value, Mapping):
        raise Mismatch("should be an object")
    return value


@record(frozen=True, repr=False, eq=False)
class ElicitResult(WireObject):
    """The answer to an :class:`ElicitRequest`.

    Attributes:
        action: ``"accept"``, ``"decline"`` (the user said no) or ``"cancel"`` (the
            user did not say).
        content: the values of an accepted form. They may be secret: no repr and no
            message shows them.
    """

    action: str = field(metadata=one_of("accept", "decline", "cancel"))
    content: Optional[Object] = field(
        default=None, repr=False, metadata=wire(_read_answers)
    )
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def accept(cls, content: Optional[Object] = None) -> ElicitResult:
        """Return the answer of a user who agrees, with the values of the form."""
        return cls("accept", content)

    @classmethod
    def decline(cls) -> ElicitResult:
        """Return the answer of a user who says no."""
        return cls("decline")

    @classmethod
    def cancel(cls) -> ElicitResult:
        """Return the answer for a user who went away without a choice."""
        return cls("cancel")


@record(frozen=True, repr=False, eq=False)
class CreateMessageRequest(_Question):
    """A server's wish for a message from a model (client/sampling).

    Attributes:
        max_tokens: the most that may be generated.
        model_preferences, metadata, tool_choice: verbatim.
        include_context: ``"none"``, ``"thisServer"`` or ``"allServers"``.
        tools: what the model may call; None when the server gives none.
        server: the name of the server that asks.
        cancelled: set when the answer is no longer wanted. A copy or a pickle has
            an event of its own.
    """

    messages: List[SamplingMessage] = field(metadata=many(SamplingMessage))
    max_tokens: int = field(metadata=INTEGER)
    system_prompt: Optional[str] = field(default=None, metadata=STRING)
    model_preferences: Optional[Object] = field(default=None, metadata=OBJECT)
    temperature: Optional[float] = field(default=None, metadata=NUMBER)
    stop_sequences: List[str] = field(default_factory=list, metadata=STRINGS)
    include_context: Optional[str] = field(default=None, metadata=STRING)
    metadata: Optional[Object] = field(default=None, metadata=OBJECT)
    tools: Optional[List[Tool]] = field(default=None, metadata=many(Tool))
    tool_choice: Optional[Object] = field(default=None, metadata=OBJECT)
    server: str = field(default="", repr=False, compare=False)
    cancelled: threading.Event = field(
        default_factory=threading.Event, repr=False, compare=False
    )
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class Root(WireObject):
    """A place that the server may work in: a ``file://`` URI (client/roots)."""

    uri: str = field(metadata=STRING)
    name: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class ListRootsResult(WireObject):
    """The answer to ``roots/list``."""

    roots: List[Root] = field(metadata=many(Root))
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


# --- what a server tells ----------------------------------------------------------


@record(frozen=True, repr=False, eq=False)
class ProgressNotification(WireObject):
    """How far a request is (basic/utilities/progress): the notification's params."""

    progress_token: Union[str, int] = field(metadata=TOKEN)
    progress: float = field(metadata=NUMBER)
    total: Optional[float] = field(default=None, metadata=NUMBER)
    message: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class LoggingMessage(WireObject):
    """A line of the server's log (server/utilities/logging).

    Attributes:
        level: ``"debug"``, ``"info"``, ``"notice"``, ``"warning"``, ``"error"``,
            ``"critical"``, ``"alert"`` or ``"emergency"``.
        data: any JSON value, often a string.
        logger: the name of the server's logger.
    """

    level: str = field(metadata=STRING)
    data: JSON = field(metadata=ANY)
    logger: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class ServerNotification(WireObject):
    """A notification as the server sent it, such as "the list of tools changed".

    Attributes:
        method: ``"notifications/tools/list_changed"``, for example.
        params: its parameters, empty when there are none: a resource that was
            updated is ``params["uri"]``.
        meta: the ``_meta`` of the parameters.
    """

    method: str = field(metadata=STRING)
    params: Object = field(default_factory=dict, metadata=OBJECT)
    meta: Optional[Object] = field(default=None, repr=False, compare=False)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def _values(cls, value: JSON) -> Dict[str, JSON]:
        values = super()._values(value)
        values["meta"] = within(".params", _read_meta, values["params"])
        return values
