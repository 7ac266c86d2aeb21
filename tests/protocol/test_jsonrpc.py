"""JSON-RPC messages: what is read, what is refused, and how everything is written."""

from __future__ import annotations

import enum
import json
import types
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import pytest

from mcpsync.exceptions import InvalidArguments, InvalidMessage, MCPError
from mcpsync.protocol.jsonrpc import (
    InvalidAnswer,
    Message,
    Notification,
    Outgoing,
    Request,
    Response,
    check_depth,
    decode,
    dumps,
    empty_answer,
    encode,
    parse,
)


def message(**members: Any) -> Dict[str, Any]:
    return {"jsonrpc": "2.0", **members}


def read(text: Union[str, bytes]) -> Message:
    return parse(decode(text))


# --- messages --------------------------------------------------------------------

BOOM = {"code": -32603, "message": "boom"}

MESSAGES: List[Tuple[Dict[str, Any], Message]] = [
    (message(id=1, result={"a": 1}), Response(1, {"a": 1})),
    (message(id="1", result={}), Response("1", {})),
    (message(id="", result={}), Response("", {})),
    (message(id=-7, result={}), Response(-7, {})),
    (message(id=10**30, result={}), Response(10**30, {})),
    # The kind of a result is for those to judge who know the method.
    (message(id=1, result=None), Response(1, None)),
    (message(id=1, result=[1]), Response(1, [1])),
    (message(id=1, result=5), Response(1, 5)),
    (message(id=1, error=BOOM), Response(1, error=BOOM)),
    # So does a server answer what it could not read.
    (message(id=None, error=BOOM), Response(None, error=BOOM)),
    (message(error=BOOM), Response(None, error=BOOM)),
    (message(id=1, error={"code": 0}), Response(1, error={"code": 0})),
    (
        message(id=1, error={**BOOM, "data": [1], "more": 2}),
        Response(1, error={**BOOM, "data": [1], "more": 2}),
    ),
    (message(id=1, method="ping"), Request(1, "ping", {})),
    (message(id="s", method="ping", params={}), Request("s", "ping", {})),
    (message(id="s", method="p", params=None), Request("s", "p", {})),
    (message(id="s", method="p", params={"a": [1]}), Request("s", "p", {"a": [1]})),
    (message(id=1, method="", params={}), Request(1, "", {})),
    (message(method="n"), Notification("n", {})),
    (message(method="n", params={"a": 1}), Notification("n", {"a": 1})),
    # Members that nobody knows are nobody's business.
    (message(id=1, result={}, extra=5), Response(1, {})),
    (message(method="n", extra=[]), Notification("n", {})),
]


@pytest.mark.parametrize("value, expected", MESSAGES)
def test_messages(value: Dict[str, Any], expected: Message) -> None:
    found = parse(value)
    assert found == expected
    assert type(found) is type(expected)
    if not isinstance(found, Notification) and not isinstance(expected, Notification):
        assert type(found.id) is type(expected.id)
    assert read(json.dumps(value).encode()) == expected


NO_MESSAGES: List[Tuple[Any, str]] = [
    (None, "expected a JSON object, got null"),
    (True, "expected a JSON object, got a boolean"),
    (5, "expected a JSON object, got a number"),
    (1.5, "expected a JSON object, got a number"),
    ("x", "expected a JSON object, got a string"),
    ([], "expected a JSON object, got an array"),
    ([message(id=1, result={})], "expected a JSON object, got an array"),
    ({}, "jsonrpc"),
    ({"id": 1, "method": "ping"}, "jsonrpc"),
    ({"jsonrpc": "1.0", "method": "n"}, "jsonrpc"),
    ({"jsonrpc": "1.0", "id": 1, "method": "n"}, "jsonrpc"),
    ({"jsonrpc": "1.0", "id": 1, "method": "n", "result": {}}, "jsonrpc"),
    ({"jsonrpc": 2.0, "method": "n"}, "jsonrpc"),
    ({"jsonrpc": ["2.0"], "method": "n"}, "jsonrpc"),
    ({"jsonrpc": "2.0 ", "method": "n"}, "jsonrpc"),
    ({"level": "info", "id": 1, "message": "a line of a log"}, "jsonrpc"),
    (message(id=1, method=5), "the method is a number"),
    (message(id=1, method={}), "the method is an object"),
    (message(id=1, method=False), "the method is a boolean"),
    (message(id=1, method="p", params=[]), "the params are an array"),
    (message(id=1, method="p", params=5), "the params are a number"),
    (message(method="n", params="x"), "the params are a string"),
    (message(method="n", params=False), "the params are a boolean"),
    # Identifiers of the server's own requests.
    (message(id=None, method="p"), "the id is null"),
    (message(id=True, method="p"), "the id is a boolean"),
    (message(id=1.0, method="p"), "the id is a number"),
    (message(id={}, method="p"), "the id is an object"),
    (message(id=[], method="p"), "the id is an array"),
    # True and 1.0 are equal to the request 1, but are not its id.
    (message(id=True, result={}), "the id is a boolean"),
    (message(id=False, result={}), "the id is a boolean"),
    (message(id=1.0, result={}), "the id is a number"),
    (message(id=1e0, error=BOOM), "the id is a number"),
    (message(id={}, result={}), "the id is an object"),
    (message(id=[1], result={}), "the id is an array"),
]


@pytest.mark.parametrize("value, text", NO_MESSAGES)
def test_what_is_no_message_belongs_to_no_request(value: Any, text: str) -> None:
    with pytest.raises(InvalidMessage, match=text) as caught:
        parse(value)
    assert not isinstance(caught.value, InvalidAnswer)


BAD_ANSWERS: List[Tuple[Dict[str, Any], Any, str]] = [
    (message(id=1, result={}, error=BOOM), 1, "both a result and an error"),
    (message(id=1, result=None, error=BOOM), 1, "both a result and an error"),
    (message(id=1, result={}, error=None), 1, "both a result and an error"),
    (message(id="1", result=1, error=1), "1", "both a result and an error"),
    (message(id=1), 1, "neither"),
    (message(id="x"), "x", "neither"),
    (message(id=None), None, "neither"),
    (message(), None, "neither"),
    (message(id=1, method=None), 1, "neither"),
    (message(id=1, error=None), 1, "the error is malformed: None"),
    (message(id=1, error="boom"), 1, "the error is malformed: 'boom'"),
    (message(id=1, error=[]), 1, "malformed"),
    (message(id=1, error={}), 1, "malformed"),
    (message(id=1, error={"message": "m"}), 1, "malformed"),
    (message(id=1, error={"code": "-32603", "message": "m"}), 1, "malformed"),
    (message(id=1, error={"code": -32603.0, "message": "m"}), 1, "malformed"),
    (message(id=1, error={"code": 1e99, "message": "m"}), 1, "malformed"),
    (message(id=1, error={"code": True, "message": "m"}), 1, "malformed"),
    (message(id=1, error={"code": None, "message": "m"}), 1, "malformed"),
    (message(id=1, error={"code": 1, "message": None}), 1, "message is not a string"),
    (message(id=1, error={"code": 1, "message": {}}), 1, "message is not a string"),
    (message(error={"code": 1, "message": 5}), None, "message is not a string"),
    # Another JSON-RPC, but it is clear what is answered.
    ({"id": 1, "result": {}}, 1, "jsonrpc"),
    ({"jsonrpc": "1.0", "id": "x", "result": {}}, "x", "jsonrpc"),
    ({"jsonrpc": 2, "id": 1, "error": BOOM}, 1, "jsonrpc"),
    ({"jsonrpc": None, "id": 1, "error": None, "result": 1}, 1, "jsonrpc"),
]


@pytest.mark.parametrize("value, id, text", BAD_ANSWERS)
def test_a_bad_answer_belongs_to_its_request(
    value: Dict[str, Any], id: Any, text: str
) -> None:
    with pytest.raises(InvalidAnswer, match=text) as caught:
        parse(value)
    assert caught.value.response_id == id
    assert type(caught.value.response_id) is type(id)


@pytest.mark.parametrize("id", [True, 1.0, None, {}, [1]])
def test_an_answer_in_another_jsonrpc_with_a_bad_id_belongs_to_nobody(id: Any) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse({"jsonrpc": "1.0", "id": id, "result": {}})
    assert not isinstance(caught.value, InvalidAnswer)


NASTY = "\x1b]0;x\x07\u202e\ud800\r\n" * 1000

NASTY_MESSAGES = [
    message(id=1, error=NASTY),
    message(id=1, error={"code": NASTY, NASTY: NASTY}),
    message(id=1, result={}, error=NASTY, more=NASTY),
    {"jsonrpc": NASTY, "id": 1, "result": NASTY},
    {"jsonrpc": {NASTY: NASTY}, "method": NASTY},
    message(method={NASTY: 1}),
]


@pytest.mark.parametrize("value", NASTY_MESSAGES)
def test_what_is_said_about_a_bad_message_is_clean_and_short(value: Any) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse(value)
    check_clean(caught.value)
    with pytest.raises(InvalidMessage) as caught:
        decode(json.dumps(value)[:-1])
    check_clean(caught.value)


def check_clean(error: MCPError) -> None:
    text = str(error)
    assert len(text) < 1000
    assert text.isprintable()


def test_a_state_in_a_bad_message_is_not_shown() -> None:
    result = {"resultType": "input_required", "requestState": "do not show this"}
    for bad in (
        {"id": 1, "result": result},
        message(id=1, result=result, error=5),
        message(id=1.5, result=result),
    ):
        with pytest.raises(InvalidMessage) as caught:
            parse(bad)
        assert "do not show" not in str(caught.value)
        with pytest.raises(InvalidMessage, match="not JSON") as caught:
            decode(json.dumps(bad)[:-1])
        assert "do not show" not in str(caught.value)


def test_the_beginning_of_what_is_not_json_is_shown() -> None:
    with pytest.raises(InvalidMessage, match="Traceback: no database$"):
        decode("\r\nTraceback: no database\n")
    with pytest.raises(InvalidMessage, match="nothing at all$"):
        decode(b" ")


def test_no_repr_shows_a_state() -> None:
    result = {"requestState": "do not show this"}
    assert "do not show" not in repr(Response(1, result))
    assert "do not show" not in repr(Outgoing(1, "tools/call", dumps(result)))


# --- decoding --------------------------------------------------------------------

VALUES: List[Tuple[Union[str, bytes, bytearray], Any]] = [
    (b"{}", {}),
    (b' \t\r\n{"a": [1, 2.5, -0, true, null]}\r\n', {"a": [1, 2.5, 0, True, None]}),
    (b"1e308", 1e308),
    (b"-1E-400", 0.0),
    ('"é€😀"'.encode(), "é€😀"),
    (rb'"\u00e9\ud83d\ude00"', "é😀"),
    (b'"\\u2028\xe2\x80\xa9\xc2\x85"', "\u2028\u2029\x85"),
    (b"9" * 400, int("9" * 400)),
    (b"-" + b"9" * 400, -int("9" * 400)),
    (b"0." + b"9" * 5000, 1.0),
    ('{"a":1}', {"a": 1}),
    (bytearray(b"[]"), []),
]


@pytest.mark.parametrize("text, expected", VALUES, ids=range(len(VALUES)))
def test_values(text: Union[str, bytes, bytearray], expected: Any) -> None:
    found = decode(text)
    assert found == expected
    assert type(found) is type(expected)


SMILE = '{"jsonrpc":"2.0","method":"😀"}'

NOT_JSON: List[Tuple[str, Union[str, bytes]]] = [
    ("nothing", b""),
    ("blank", b" \r\n"),
    ("word", b"hello"),
    ("html", b"<!doctype html><title>502</title>"),
    ("half", b'{"a": 1'),
    ("two", b"{} {}"),
    ("comment", b"{} // why"),
    ("trailing comma", b"[1,]"),
    ("single quotes", b"{'a': 1}"),
    ("NUL behind", b"{}\x00"),
    ("control character in a string", b'"a\nb"'),
    ("bad escape", rb'"\x41"'),
    ("leading zero", b"01"),
    ("plus", b"+1"),
    ("hexadecimal", b"0x10"),
    ("NaN", b"NaN"),
    ("NaN inside", b'{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}'),
    ("Infinity", b"[Infinity]"),
    ("-Infinity", b'{"a":-Infinity}'),
    ("1e999", b"1e999"),
    ("-1e999", b"[-1e999]"),
    ("10**400.0", b"1" * 401 + b".0"),
    ("10**5000", b"1" + b"0" * 5000),
    ("401 digits", b"9" * 401),
    ("-401 digits", b"[-" + b"9" * 401 + b"]"),
    ("BOM", b"\xef\xbb\xbf{}"),
    ("BOM in a text", "\ufeff{}"),
    ("UTF-16", SMILE.encode("utf-16")),
    ("UTF-16-LE", SMILE.encode("utf-16-le")),
    ("UTF-16-BE", SMILE.encode("utf-16-be")),
    ("UTF-32", SMILE.encode("utf-32")),
    ("UTF-32-LE", b"1\x00\x00\x00"),
    ("Latin-1", '"é"'.encode("latin-1")),
    ("surrogate in UTF-8", b'"\xed\xa0\x80"'),
    ("overlong", b'"\xc0\x80"'),
    ("beyond Unicode", b'"\xf4\x90\x80\x80"'),
    ("cut in a character", '"😀'.encode()[:-1]),
]


@pytest.mark.parametrize("text", [t for _, t in NOT_JSON], ids=[n for n, _ in NOT_JSON])
def test_what_is_not_json(text: Union[str, bytes]) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(text)
    check_clean(caught.value)


DEEP = 100_000
SHAPES = {
    "arrays": ("[", "]"),
    "objects": ('{"a":', "}"),
    "mixed, with brackets in strings": ('[{"[{":"}]","a":', "}]"),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("closed", [True, False])
def test_endless_nesting_is_refused(name: str, closed: bool) -> None:
    opening, closing = SHAPES[name]
    text = opening * DEEP + (("1" + closing * DEEP) if closed else "")
    with pytest.raises(InvalidMessage) as caught:
        decode(text.encode())
    check_clean(caught.value)


@pytest.mark.parametrize("name", SHAPES)
def test_nesting_of_200_levels_is_allowed_and_no_more(name: str) -> None:
    opening, closing = SHAPES[name]
    levels = 200 // (opening.count('"a"') + opening.startswith("["))
    decode(opening * levels + "1" + closing * levels)
    for more in (levels + 1, levels + 200):
        with pytest.raises(InvalidMessage, match="200 levels"):
            decode(opening * more + "1" + closing * more)
    # Breadth is no depth, and neither are brackets in strings.
    decode("[" + ",".join([opening * 5 + "1" + closing * 5] * 500) + "]")
    assert decode(json.dumps(opening * DEEP)) == opening * DEEP


def test_lone_surrogates_are_data_like_any_other() -> None:
    text = rb'{"jsonrpc":"2.0","id":"\ud800","method":"\udfff","params":{"\ud83d":1}}'
    request = read(text)
    assert request == Request("\ud800", "\udfff", {"\ud83d": 1})
    assert isinstance(request, Request)
    answer = empty_answer(request)
    assert answer.body == rb'{"jsonrpc":"2.0","id":"\ud800","result":{}}'
    assert decode(dumps("\ud83d")) == "\ud83d"


def test_of_repeated_members_the_last_one_counts() -> None:
    text = '{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2},"id":2}'
    assert read(text) == Response(2, {"a": 2})


# --- writing ---------------------------------------------------------------------

LINES = [
    "plain",
    "",
    "a\nb\rc\r\nd\x0b\x0c\x1c\x1d\x1e\x85e\u2028f\u2029g",
    "\x00\x1b\x7f",
    "é€😀",
    "\ud800",
    '"\\',
    "".join(map(chr, range(0x2100))),
]


@pytest.mark.parametrize("text", LINES)
def test_whatever_is_written_is_one_line_of_ascii(text: str) -> None:
    body = encode("m", {"text": text, text: [text]}, 1)
    assert len(body.decode("ascii").splitlines()) == 1
    assert b"\r" not in body and b"\n" not in body
    assert decode(body)["params"] == {"text": text, text: [text]}


class Colour(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


BODIES: List[Tuple[Tuple[Any, ...], bytes]] = [
    (("ping", None, 7), b'{"jsonrpc":"2.0","id":7,"method":"ping"}'),
    (("ping", {}, 0), b'{"jsonrpc":"2.0","id":0,"method":"ping","params":{}}'),
    (("n", None), b'{"jsonrpc":"2.0","method":"n"}'),
    (("n", {}), b'{"jsonrpc":"2.0","method":"n","params":{}}'),
    (
        ("n", {"a": [1, 2.5, True, None, "x"], "b": (1,)}),
        b'{"jsonrpc":"2.0","method":"n",'
        b'"params":{"a":[1,2.5,true,null,"x"],"b":[1]}}',
    ),
    (
        ("n", {"colour": Colour.RED, "number": Number.ONE}),
        b'{"jsonrpc":"2.0","method":"n","params":{"colour":"red","number":1}}',
    ),
    (
        ("n", types.MappingProxyType({"a": 1})),
        b'{"jsonrpc":"2.0","method":"n","params":{"a":1}}',
    ),
]


@pytest.mark.parametrize("arguments, expected", BODIES)
def test_bodies(arguments: Tuple[Any, ...], expected: bytes) -> None:
    assert encode(*arguments) == expected


def cycle() -> Dict[str, Any]:
    value: Dict[str, Any] = {}
    value["again"] = [value]
    return value


def nested(depth: int) -> List[Any]:
    value: List[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNWRITABLE = {
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": -float("inf"),
    "key NaN": {float("nan"): 1},
    "bytes": b"x",
    "set": {1},
    "object": object(),
    "class": dict,
    "complex": 1j,
    "key tuple": {(1, 2): 3},
    "cycle": cycle(),
    "deep": nested(DEEP),
    "endless integer": 10**5000,
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_cannot_be_written_is_the_callers_mistake(name: str) -> None:
    value = UNWRITABLE[name]
    for attempt in (lambda: dumps(value), lambda: encode("m", {"a": [value]}, 1)):
        with pytest.raises(InvalidArguments, match="cannot be sent as JSON") as caught:
            attempt()
        check_clean(caught.value)


@pytest.mark.parametrize("id", [5, "5", "é", ""])
def test_the_answer_to_a_ping(id: Union[int, str]) -> None:
    answer = empty_answer(Request(id, "ping", {"ignored": 1}))
    assert decode(answer.body) == {"jsonrpc": "2.0", "id": id, "result": {}}
    assert type(decode(answer.body)["id"]) is type(id)
    assert answer.id is None and answer.method == ""
    assert answer.headers == {} and answer.notice is None
    assert not answer.accepts_requests and not answer.resumable


def test_records_do_not_change() -> None:
    records: List[Any] = [
        Request(1, "m", {}),
        Notification("m", {}),
        Response(1),
        Outgoing(1, "m", b""),
    ]
    for record in records:
        with pytest.raises(AttributeError):
            record.method = "other"


def test_a_message_says_which_status_it_came_with() -> None:
    defaults: Tuple[Optional[int], Optional[Mapping[str, Any]]]
    defaults = (Response(1).status, Response(1).error)
    assert defaults == (None, None)
    assert Response(1, status=404).status == 404


@pytest.mark.parametrize(
    "text",
    [
        "[" * 201 + "]" * 201,
        '{"a":' * 201 + "1" + "}" * 201,
        "[[]," * 300 + "1" + "]" * 300,
        "[" * 100_000,
        '["\\\\",' * 500 + "1" + "]" * 500,
    ],
    ids=["arrays", "objects", "with siblings", "unclosed", "with escapes"],
)
def test_a_deep_text_is_refused_before_it_is_read(text: str) -> None:
    # The reader goes as deep as the text, and near the end of the stack destructors
    # that happen to run fail.
    with pytest.raises(InvalidMessage, match="nested deeper than 200 levels"):
        check_depth(text)
    with pytest.raises(InvalidMessage, match="nested deeper than 200 levels"):
        decode(text)


@pytest.mark.parametrize(
    "value",
    [
        [[1]] * 5000,
        ["[" * 3000 + '"' + "{" * 3000 + "\\"] * 3,
        {"[" * 500: "]" * 10, "a\\": ["[[" * 300, "\\\\\\", "{"]},
    ],
    ids=["flat", "in strings", "in names"],
)
def test_many_brackets_are_not_deep(value: Any) -> None:
    text = json.dumps(value)
    check_depth(text)
    assert decode(text) == value
