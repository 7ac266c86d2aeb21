"""Content blocks and the contents of resources, and how they become files.

The public names are those of `mcpsync.types`.
"""

from __future__ import annotations

import binascii
import builtins
import os
import re
from dataclasses import field
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Type,
    Union,
)

from ._wire import (
    ANY,
    FLAG,
    INTEGER,
    JSON,
    META,
    NUMBER,
    OBJECT,
    STRING,
    STRINGS,
    Mismatch,
    WireObject,
    list_of,
    many,
    nested,
    read_object,
    read_or_raise,
    read_string,
    record,
    refuse,
    wire,
    within,
)
from .exceptions import UnexpectedResult

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ANNOTATIONS",
    "Annotations",
    "AudioContent",
    "BlobResourceContents",
    "ContentBlock",
    "CreateMessageResult",
    "EmbeddedResource",
    "Icon",
    "ImageContent",
    "Object",
    "PathLike",
    "PromptMessage",
    "Resource",
    "ResourceContents",
    "ResourceLink",
    "SamplingMessage",
    "TextContent",
    "TextResourceContents",
    "ToolResultContent",
    "ToolUseContent",
    "UnknownContent",
    "content_from_wire",
    "read_block",
    "read_blocks",
    "read_contents",
    "text_of",
]

Object = Mapping[str, JSON]
PathLike = Union[str, "os.PathLike[str]"]


# --- small parts ------------------------------------------------------------------


@record(frozen=True, repr=False, eq=False)
class Annotations(WireObject):
    """Hints about a resource or a content block (server/resources, Annotations).

    Attributes:
        audience: for whom it is: ``"user"``, ``"assistant"``, or both.
        priority: from 0 (optional) to 1 (required).
        last_modified: an ISO 8601 date and time.
    """

    audience: List[str] = field(default_factory=list, metadata=STRINGS)
    priority: Optional[float] = field(default=None, metadata=NUMBER)
    last_modified: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


ANNOTATIONS = nested(Annotations)


def _read_sizes(value: JSON) -> List[str]:
    # Drafts of 2025-11-25 had one string here, and servers still send it.
    return [value] if isinstance(value, str) else list_of(read_string)(value)


@record(frozen=True, repr=False, eq=False)
class Icon(WireObject):
    """A picture for a tool, prompt, resource or server (2025-11-25, basic, Icons).

    Attributes:
        src: an ``https:`` or ``data:`` URI. Check it before fetching anything.
        sizes: such as ``"48x48"`` or ``"any"``.
        theme: ``"light"`` or ``"dark"``: the background it is made for.
    """

    src: str = field(metadata=STRING)
    mime_type: Optional[str] = field(default=None, metadata=STRING)
    sizes: List[str] = field(default_factory=list, metadata=wire(_read_sizes))
    theme: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


# --- content ----------------------------------------------------------------------


class _Block(WireObject):
    """A content block: `type` tells the kinds apart and is not a field."""

    type: ClassVar[str]

    @classmethod
    def _values(cls, value: JSON) -> Dict[str, JSON]:
        values = super()._values(value)
        if value.get("type", cls.type) != cls.type:
            raise refuse("'%s'" % cls.type, value["type"], ".type")
        return values

    def to_wire(self) -> Dict[str, JSON]:
        """Return the JSON object, with its ``type``."""
        target = super().to_wire()
        target.setdefault("type", self.type)
        return target


@record(frozen=True, repr=False, eq=False)
class TextContent(_Block):
    """Text, to or from a model."""

    type: ClassVar[str] = "text"

    text: str = field(metadata=STRING)
    annotations: Optional[Annotations] = field(default=None, metadata=ANNOTATIONS)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class _Media(_Block):
    """Binary content in base64.

    Attributes:
        data: base64, as received.
        mime_type: such as ``image/png``, as the server says.
    """

    data: str = field(metadata=STRING)
    mime_type: str = field(metadata=STRING)
    annotations: Optional[Annotations] = field(default=None, metadata=ANNOTATIONS)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def bytes(self) -> builtins.bytes:
        """Decode `data`; each time anew. Raises UnexpectedResult on junk."""
        return _decode(self.data, type(self).__name__)

    def save(self, path: PathLike) -> Path:
        """Write the bytes to a file and return its path.

        A directory gets a new file named after the kind of content, and no file in
        it is overwritten. Any other path is the file to write.

        Raises:
            UnexpectedResult: the content is not valid base64.
            OSError: the file cannot be written.
        """
        return _save(self.bytes, path, self.type, self.mime_type)


class ImageContent(_Media):
    """An image: `data` in base64, `mime_type`, `bytes`, `save(path)`."""

    type: ClassVar[str] = "image"


class AudioContent(_Media):
    """A sound (2025-03-26): `data` in base64, `mime_type`, `bytes`, `save(path)`."""

    type: ClassVar[str] = "audio"


@record(frozen=True, repr=False, eq=False)
class Resource(WireObject):
    """A resource that the server can read (server/resources).

    Attributes:
        size: bytes of the content before any encoding, if known.
    """

    uri: str = field(metadata=STRING)
    name: str = field(metadata=STRING)
    title: Optional[str] = field(default=None, metadata=STRING)
    description: Optional[str] = field(default=None, metadata=STRING)
    mime_type: Optional[str] = field(default=None, metadata=STRING)
    annotations: Optional[Annotations] = field(default=None, metadata=ANNOTATIONS)
    size: Optional[int] = field(default=None, metadata=INTEGER)
    icons: List[Icon] = field(default_factory=list, metadata=many(Icon))
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


class ResourceLink(_Block, Resource):
    """A resource to be read by its `uri` (2025-06-18); it need not be listed."""

    type: ClassVar[str] = "resource_link"


@record(frozen=True, repr=False, eq=False)
class TextResourceContents(WireObject):
    """The text of a resource, or of one part of it."""

    uri: str = field(metadata=STRING)
    text: str = field(metadata=STRING)
    mime_type: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    def save(self, path: PathLike) -> Path:
        """Write the text in UTF-8 to a file and return its path.

        A directory gets a new file named after the last part of the URI, and no file
        in it is overwritten. Any other path is the file to write.
        """
        data = self.text.encode("utf-8", "replace")
        return _save(data, path, self.uri, self.mime_type or "")


@record(frozen=True, repr=False, eq=False)
class BlobResourceContents(WireObject):
    """The bytes of a resource, or of one part of it: `blob` is base64."""

    uri: str = field(metadata=STRING)
    blob: str = field(metadata=STRING)
    mime_type: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def data(self) -> str:
        """The same as `blob`, by the name that images and sounds have for it."""
        return self.blob

    @property
    def bytes(self) -> builtins.bytes:
        """Decode `blob`; each time anew. Raises UnexpectedResult on junk."""
        return _decode(self.blob, type(self).__name__)

    def save(self, path: PathLike) -> Path:
        """Write the bytes to a file and return its path.

        A directory gets a new file named after the last part of the URI, and no file
        in it is overwritten. Any other path is the file to write.

        Raises:
            UnexpectedResult: the content is not valid base64.
            OSError: the file cannot be written.
        """
        return _save(self.bytes, path, self.uri, self.mime_type or "")


ResourceContents = Union[TextResourceContents, BlobResourceContents]


def read_contents(value: JSON) -> ResourceContents:
    """Read the contents of a resource: text if there is any, or else a blob."""
    if isinstance(read_object(value).get("text"), str):
        return TextResourceContents._read(value)
    if "blob" in value:
        return BlobResourceContents._read(value)
    return TextResourceContents._read(value)


@record(frozen=True, repr=False, eq=False)
class EmbeddedResource(_Block):
    """The contents of a resource within a message or a result."""

    type: ClassVar[str] = "resource"

    resource: ResourceContents = field(metadata=wire(read_contents))
    annotations: Optional[Annotations] = field(default=None, metadata=ANNOTATIONS)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class ToolUseContent(_Block):
    """A model's wish to call a tool (2025-11-25, client/sampling)."""

    type: ClassVar[str] = "tool_use"

    id: str = field(metadata=STRING)
    name: str = field(metadata=STRING)
    input: Object = field(metadata=OBJECT)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


def read_block(value: JSON) -> ContentBlock:
    """Read a content block by its type; an unknown type is kept as it is."""
    kind = read_object(value).get("type")
    if kind is None:
        raise Mismatch("is missing", ".type")
    return _BLOCKS.get(within(".type", read_string, kind), UnknownContent)._read(value)


read_blocks = list_of(read_block)


@record(frozen=True, repr=False, eq=False)
class ToolResultContent(_Block):
    """The result of a tool that a model wanted to call (2025-11-25, client/sampling).

    Attributes:
        structured_content: any JSON value; None also when there is none.
    """

    type: ClassVar[str] = "tool_result"

    tool_use_id: str = field(metadata=STRING)
    content: List[ContentBlock] = field(metadata=wire(read_blocks))
    structured_content: JSON = field(default=None, metadata=ANY)
    is_error: bool = field(default=False, metadata=FLAG)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


@record(frozen=True, repr=False, eq=False)
class UnknownContent(WireObject):
    """A content block of a kind that this version does not know; see `raw`."""

    type: str = field(metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


ContentBlock = Union[
    TextContent,
    ImageContent,
    AudioContent,
    ResourceLink,
    EmbeddedResource,
    ToolUseContent,
    ToolResultContent,
    UnknownContent,
]

_BLOCKS: Dict[str, Type[ContentBlock]] = {
    "text": TextContent,
    "image": ImageContent,
    "audio": AudioContent,
    "resource_link": ResourceLink,
    "resource": EmbeddedResource,
    "tool_use": ToolUseContent,
    "tool_result": ToolResultContent,
}


def content_from_wire(value: Object, path: str = "") -> ContentBlock:
    """Read a content block of any kind.

    Args:
        value: the decoded JSON object.
        path: where it was found, for the message of an error.

    Raises:
        UnexpectedResult: it is no object, has no ``type``, or does not fit its type.
    """
    return read_or_raise("content", read_block, value, path)


def text_of(blocks: Iterable[object]) -> str:
    """Return the texts among content blocks or contents, joined by newlines."""
    return "\n".join(
        block.text
        for block in blocks
        if isinstance(block, (TextContent, TextResourceContents))
    )


# --- messages --------------------------------------------------------------------


@record(frozen=True, repr=False, eq=False)
class PromptMessage(WireObject):
    """One message of a prompt: `role` is ``"user"`` or ``"assistant"``."""

    role: str = field(metadata=STRING)
    content: ContentBlock = field(metadata=wire(read_block))
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)


def _read_some_blocks(value: JSON) -> Union[ContentBlock, List[ContentBlock]]:
    # One block until 2025-06-18, since then also a list.
    return read_blocks(value) if isinstance(value, list) else read_block(value)


def _blocks_of(content: Union[ContentBlock, Sequence[ContentBlock]]) -> List[JSON]:
    return list(content) if isinstance(content, (list, tuple)) else [content]


@record(frozen=True, repr=False, eq=False)
class SamplingMessage(WireObject):
    """One message of a conversation with a model (client/sampling).

    Attributes:
        role: ``"user"`` or ``"assistant"``.
        content: one block, or a list of them (2025-11-25); see `blocks`.
    """

    role: str = field(metadata=STRING)
    content: Union[ContentBlock, List[ContentBlock]] = field(
        metadata=wire(_read_some_blocks)
    )
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def blocks(self) -> List[ContentBlock]:
        """The content as a list, also when it is one block."""
        return _blocks_of(self.content)


@record(frozen=True, repr=False, eq=False)
class CreateMessageResult(WireObject):
    """The answer to a :class:`mcpsync.types.CreateMessageRequest`.

    Attributes:
        role: ``"assistant"``, as a rule.
        content: one block, or a list of them (2025-11-25); see `blocks`.
        model: the name of the model that wrote it.
        stop_reason: ``"endTurn"``, ``"stopSequence"``, ``"maxTokens"``, ``"toolUse"``
            or whatever the model's provider says.
    """

    role: str = field(metadata=STRING)
    content: Union[ContentBlock, List[ContentBlock]] = field(
        metadata=wire(_read_some_blocks)
    )
    model: str = field(metadata=STRING)
    stop_reason: Optional[str] = field(default=None, metadata=STRING)
    meta: Optional[Object] = field(default=None, repr=False, metadata=META)
    raw: Object = field(default_factory=dict, repr=False, compare=False)

    @property
    def blocks(self) -> List[ContentBlock]:
        """The content as a list, also when it is one block."""
        return _blocks_of(self.content)


# --- bytes and files --------------------------------------------------------------

#: Names that Windows gives to devices, whatever the suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
#: What `mimetypes` does not know, or not in every version of Python.
_SUFFIXES = {
    "audio/flac": ".flac",
    "audio/ogg": ".ogg",
    "audio/wav": ".wav",
    "image/avif": ".avif",
    "image/webp": ".webp",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
}
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


def _decode(text: str, name: str) -> bytes:
    """Decode base64 strictly: one alphabet, full padding, no white space."""
    if len(text) % 4 or not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", text):
        raise UnexpectedResult("%s: the data is not valid base64" % name)
    return binascii.a2b_base64(text)


def _save(data: bytes, path: PathLike, source: str, mime_type: str) -> Path:
    """Write to the file, or to a new file in the directory, that the user named."""
    from pathlib import Path

    if not os.path.isdir(path):
        with open(path, "wb") as file:
            file.write(data)
        return Path(path)
    for name in _file_names(source, mime_type):
        try:
            # "x" never overwrites and never follows a link.
            with open(os.path.join(path, name), "xb") as file:
                file.write(data)
        except FileExistsError:
            continue
        return Path(path, name)
    raise FileExistsError("the directory is full of such files: %s" % path)


def _file_names(source: str, mime_type: str) -> Iterator[str]:
    """Yield harmless file names for a URI, or for a kind of content."""
    from urllib.parse import unquote

    whole = unquote(re.split("[?#]", source, maxsplit=1)[0])
    segment = ([part for part in re.split(r"[/\\:]", whole) if part] or [""])[-1]
    # No leading dot (hidden) or dash (an option), no trailing dot (lost on Windows).
    plain = _NOT_PLAIN.sub("_", segment).strip("._-")
    if _DEVICES.match(plain):
        plain = "_" + plain
    stem, suffix = os.path.splitext(plain or "resource")
    stem, suffix = stem[:80], suffix[:16] or _suffix(mime_type)
    yield stem + suffix
    for number in range(1, 10000):
        yield "%s-%d%s" % (stem, number, suffix)


def _suffix(mime_type: str) -> str:
    """Return the usual suffix of a MIME type's files, with its dot."""
    import mimetypes

    essence = mime_type.split(";")[0].strip().lower()
    if not essence:
        return ""
    # An instance does not know the files of this machine: the name of a file shall
    # not depend on them.
    known = mimetypes.MimeTypes(()).guess_extension(essence, strict=False)
    return _SUFFIXES.get(essence) or known or ".bin"
