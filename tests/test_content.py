"""Content blocks and resource contents: their kinds, their bytes, their files."""

from __future__ import annotations

import os
import stat
from typing import Any, Dict

import pytest

from mcpsync import _content, types
from mcpsync.exceptions import UnexpectedResult

from .wire_examples import (
    AUDIO,
    EMBEDDED,
    HOLOGRAM,
    IMAGE,
    LINK,
    PIXEL,
    TEXT,
    TOOL_RESULT,
    TOOL_USE,
)


def test_every_kind_of_content_has_its_class() -> None:
    blocks = [
        (TEXT, types.TextContent),
        (IMAGE, types.ImageContent),
        (AUDIO, types.AudioContent),
        (LINK, types.ResourceLink),
        (EMBEDDED, types.EmbeddedResource),
        (TOOL_USE, types.ToolUseContent),
        (TOOL_RESULT, types.ToolResultContent),
        (HOLOGRAM, types.UnknownContent),
    ]
    wires = [wire for wire, _ in blocks]
    result = types.CallToolResult.from_wire({"content": wires})
    assert [type(block) for block in result.content] == [kind for _, kind in blocks]
    assert [block.type for block in result.content] == [w["type"] for w in wires]
    assert result.content[-1].raw is HOLOGRAM
    assert [types.content_from_wire(wire) for wire in wires] == result.content
    embedded = result.content[4]
    assert isinstance(embedded, types.EmbeddedResource)
    assert isinstance(embedded.resource, types.TextResourceContents)


def test_endless_nesting_is_an_unexpected_result() -> None:
    block: Dict[str, Any] = dict(TEXT)
    for _ in range(5000):
        block = {"type": "tool_result", "toolUseId": "u", "content": [block]}
    with pytest.raises(UnexpectedResult, match="nested too deeply"):
        types.content_from_wire(block)
    with pytest.raises(UnexpectedResult, match="nested too deeply"):
        types.CallToolResult.from_wire({"content": [block]})


def test_one_size_of_an_icon_may_be_a_string() -> None:
    icon = types.Icon.from_wire({"src": "https://example.com/i.png", "sizes": "48x48"})
    assert icon.sizes == ["48x48"]
    with pytest.raises(UnexpectedResult, match=r"sizes\[0\] should be a string"):
        types.Icon.from_wire({"src": "a:b", "sizes": [48]})


@pytest.mark.parametrize("content", [TEXT, [TEXT], [TEXT, TOOL_USE], []])
def test_the_content_of_a_message_is_one_block_or_a_list(content: Any) -> None:
    many = content if isinstance(content, list) else [content]
    expected = [types.content_from_wire(item) for item in many]
    wire = {"role": "assistant", "content": content}
    message = types.SamplingMessage.from_wire(wire)
    assert message.blocks == expected
    assert isinstance(message.content, list) == isinstance(content, list)
    result = types.CreateMessageResult.from_wire({**wire, "model": "m"})
    assert result.blocks == expected
    assert result.to_wire()["content"] == content


def test_a_tuple_of_blocks_is_a_list_on_the_wire() -> None:
    blocks: Any = (types.TextContent("hi"),)
    message = types.SamplingMessage("user", blocks)
    assert message.to_wire()["content"] == [TEXT]
    assert message.blocks == [types.TextContent("hi")]


# --- bytes and files --------------------------------------------------------------


def blob(uri: str, mime_type: Any = None) -> types.BlobResourceContents:
    return types.BlobResourceContents(uri, PIXEL, mime_type)


@pytest.mark.parametrize(
    "data, expected",
    [
        ("", b""),
        ("AA==", b"\0"),
        ("AAA=", b"\0\0"),
        ("+/+/", b"\xfb\xff\xbf"),
        (PIXEL, b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_base64_is_decoded(data: str, expected: bytes) -> None:
    assert types.ImageContent(data, "image/png").bytes == expected
    assert types.AudioContent(data, "audio/wav").bytes == expected
    contents = types.BlobResourceContents("a:b", data)
    assert contents.data == contents.blob == data
    assert contents.bytes == expected


@pytest.mark.parametrize(
    "data",
    [
        "A",
        "AA",
        "AAA",
        "AA=",
        "A===",
        "====",
        "==",
        "AA==AA==",
        "AAAA====",
        "AAAA\n",
        "AA\nAA",
        " AAA",
        "-_-_",
        "AAA\u00e9",
        "AAA\u0660",
        "AAAA\n\n\n\n",
    ],
)
def test_junk_is_not_decoded(data: str, tmp_path: Any) -> None:
    for item in (
        types.ImageContent(data, "image/png"),
        types.AudioContent(data, "audio/wav"),
        types.BlobResourceContents("a:b", data),
    ):
        with pytest.raises(UnexpectedResult, match="not valid base64"):
            item.bytes
        with pytest.raises(UnexpectedResult, match="not valid base64"):
            item.save(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_a_named_file_is_written(tmp_path: Any) -> None:
    image = types.ImageContent(PIXEL, "image/png")
    target = tmp_path / "picture.jpg"
    assert image.save(target) == target
    assert target.read_bytes() == image.bytes
    target.write_bytes(b"x" * 100)
    assert image.save(str(target)) == target
    assert target.read_bytes() == image.bytes
    with pytest.raises(OSError):
        image.save(str(tmp_path / "missing") + os.sep)
    with pytest.raises(FileNotFoundError):
        image.save(tmp_path / "missing" / "picture.png")
    assert os.listdir(tmp_path) == ["picture.jpg"]


def test_a_directory_gets_new_files(tmp_path: Any) -> None:
    image = types.ImageContent(PIXEL, "image/png")
    names = [image.save(tmp_path).name for _ in range(3)]
    assert names == ["image.png", "image-1.png", "image-2.png"]
    assert types.AudioContent(PIXEL, "audio/wav").save(tmp_path).name == "audio.wav"
    text = types.TextResourceContents("file:///a/r\u00e9sum\u00e9.txt", "caf\u00e9\n")
    saved = text.save(tmp_path)
    assert saved.name == "r_sum_.txt"
    assert saved.read_bytes() == "caf\u00e9\n".encode()
    assert not stat.S_IMODE(saved.stat().st_mode) & 0o111


def test_a_directory_with_every_name_taken_is_an_error(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["image.png", "image-1.png"]
    monkeypatch.setattr(_content, "_file_names", lambda *source: iter(names))
    image = types.ImageContent(PIXEL, "image/png")
    assert [image.save(tmp_path).name for _ in names] == names
    with pytest.raises(FileExistsError, match="full of such files"):
        image.save(tmp_path)


def test_a_link_in_the_directory_is_not_followed(tmp_path: Any) -> None:
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    inside.mkdir()
    os.symlink(outside, inside / "image.png")
    saved = types.ImageContent(PIXEL, "image/png").save(inside)
    assert saved == inside / "image-1.png"
    assert not outside.exists()


@pytest.mark.parametrize(
    "mime_type, name",
    [
        ("image/jpeg", "image.jpg"),
        ("image/webp", "image.webp"),
        ("IMAGE/PNG ; q=1", "image.png"),
        ("image/svg+xml", "image.svg"),
        ("image/../../x", "image.bin"),
        ("image/exe", "image.bin"),
        ("", "image"),
        ("\x00/\x00", "image.bin"),
    ],
)
def test_the_suffix_is_that_of_the_type(
    mime_type: str, name: str, tmp_path: Any
) -> None:
    assert types.ImageContent(PIXEL, mime_type).save(tmp_path).name == name


@pytest.mark.parametrize(
    "uri, mime_type, name",
    [
        ("file:///data/report.pdf", None, "report.pdf"),
        ("file:///data/Makefile", None, "Makefile"),
        ("https://x.example/chart?kind=a/b#c/d", "image/png", "chart.png"),
        ("https://x.example/a.tar.gz", None, "a.tar.gz"),
        ("file:///data/", "application/json", "data.json"),
        ("mem:notes", "text/html;profile=x", "notes.html"),
        ("", None, "resource"),
        ("file:///", "text/plain", "file.txt"),
        ("../../etc/passwd", None, "passwd"),
        ("file:///..", None, "resource"),
        ("file:///a/%2e%2e%2f%2e%2e%2fetc%2fpasswd", None, "passwd"),
        ("file:///a/..%5c..%5cboot.ini", None, "boot.ini"),
        ("file:///C:%5cWindows%5cx.dll", None, "x.dll"),
        ("file:///a/.bashrc", None, "bashrc"),
        ("file:///a/-rf", None, "rf"),
        ("file:///a/x%00.txt", None, "x_.txt"),
        ("file:///a/x%0a%1b[2J.txt", None, "x_2J.txt"),
        ("file:///a/two words; rm *.txt", None, "two_words_rm_.txt"),
        ("file:///a/CON", None, "_CON"),
        ("file:///a/nul.txt", None, "_nul.txt"),
        ("file:///a/console.txt", None, "console.txt"),
        ("file:///a/trailing...", None, "trailing"),
        ("file:///a/file.txt:stream", None, "stream"),
        ("file:///a/%E6%97%A5", "text/plain", "resource.txt"),
    ],
)
def test_a_server_cannot_choose_a_harmful_name(
    uri: str, mime_type: Any, name: str, tmp_path: Any
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    saved = blob(uri, mime_type).save(inside)
    assert saved == inside / name
    assert os.listdir(tmp_path) == ["inside"]
    assert os.listdir(inside) == [name]


def test_a_long_name_is_cut(tmp_path: Any) -> None:
    saved = blob("file:///a/%s.%s" % ("x" * 10_000, "y" * 10_000)).save(tmp_path)
    assert len(saved.name) < 120
    assert saved.parent == tmp_path


def test_a_resource_is_saved(tmp_path: Any) -> None:
    one = types.ReadResourceResult([types.TextResourceContents("a:b.txt", "hi")])
    assert one.save(tmp_path) == tmp_path / "b.txt"
    assert one.save(tmp_path / "c") == tmp_path / "c"
    assert (tmp_path / "c").read_text() == "hi"
    folder = tmp_path / "folder"
    folder.mkdir()
    several = types.ReadResourceResult([*one.contents, blob("a:b.txt"), blob("a:c")])
    assert several.save(folder) == folder
    assert sorted(os.listdir(folder)) == ["b-1.txt", "b.txt", "c"]
    with pytest.raises(NotADirectoryError, match="3 contents"):
        several.save(tmp_path / "d")
    with pytest.raises(UnexpectedResult, match="no contents"):
        types.ReadResourceResult([]).save(folder)


def test_text_that_is_no_unicode_is_saved(tmp_path: Any) -> None:
    text = types.TextResourceContents("a:b", "x\ud800")
    assert text.save(tmp_path / "f").read_bytes() == b"x?"
