"""The exceptions: their tree, their texts, and that they travel."""

from __future__ import annotations

import builtins
import concurrent.futures
import copy
import inspect
import pickle
import re
from typing import Any, Dict, List, Tuple, Type

import pytest

import mcpsync
from mcpsync import exceptions
from mcpsync.exceptions import (
    ConfigError,
    HTTPStatusError,
    InputRequired,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MCPError,
    MessageTooLarge,
    MethodNotFound,
    ParseError,
    RequestCancelled,
    RequestTimeout,
    ResourceNotFound,
    ServerError,
    ServerExited,
    UnsupportedProtocolVersion,
    error_for,
)
from mcpsync.protocol import jsonrpc

CLASSES: List[Type[MCPError]] = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, MCPError)
]

SAMPLE_ARGUMENTS: Dict[str, Any] = {
    "code": -32000,
    "message": "it failed",
    "data": {"a": [1, None]},
    "result": ["anything"],
    "requests": {"q": {"method": "elicitation/create"}},
    "state": "opaque",
    "parked": {"v": 1},
    "kind": "idle",
    "seconds": 2.5,
    "sent": True,
    "returncode": -9,
    "stderr_tail": "last words",
    "command": "server",
    "status": 503,
    "body_excerpt": "busy",
    "retry_after": 1.5,
    "urls": ("https://a.example", "https://b.example"),
    "generation": 3,
    "limit": 16,
    "path": "$.a",
    "server_url": "https://a.example/mcp",
    "retryable": True,
    "server": "weather",
    "method": "tools/call",
    "elapsed": 1.25,
}


def sample(kind: Type[MCPError]) -> MCPError:
    """Return an exception with every argument that its constructor takes."""
    names = list(inspect.signature(kind).parameters)
    return kind(**{name: SAMPLE_ARGUMENTS[name] for name in names})


def assert_same(one: BaseException, other: BaseException) -> None:
    assert type(one) is type(other)
    assert one.args == other.args
    assert vars(one) == vars(other)
    assert str(one) == str(other)


# --- the tree -----------------------------------------------------------------------


def test_all_lists_every_exception() -> None:
    assert sorted(exceptions.__all__) == sorted(
        [kind.__name__ for kind in CLASSES] + ["error_for"]
    )


def test_the_package_offers_every_exception() -> None:
    for kind in CLASSES:
        assert getattr(mcpsync, kind.__name__) is kind
        assert kind.__name__ in mcpsync.__all__


def _drawn_tree() -> List[Tuple[str, str]]:
    """Return the (name, parent) pairs that the module's docstring draws."""
    drawn = []
    ancestors: List[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if match:
            branch, name = match.groups()
            depth = len(branch) // 5 + 1 if branch else 0
            drawn.append((name, ancestors[depth - 1] if depth else ""))
            ancestors[depth:] = [name]
    return drawn


def test_the_docstring_draws_the_tree() -> None:
    drawn = dict(_drawn_tree())
    assert drawn.pop("MCPError") == ""
    actual = {
        kind.__name__: kind.__bases__[0].__name__
        for kind in CLASSES
        if kind is not MCPError
    }
    assert drawn == actual


@pytest.mark.parametrize("kind", CLASSES)
def test_names_and_bases(kind: Type[MCPError]) -> None:
    assert not hasattr(builtins, kind.__name__)
    assert kind.__doc__
    group = getattr(builtins, "BaseExceptionGroup", None)
    assert group is None or not issubclass(kind, group)


def test_relatives_outside_the_tree() -> None:
    assert issubclass(RequestTimeout, TimeoutError)
    assert issubclass(RequestCancelled, concurrent.futures.CancelledError)
    assert issubclass(ConfigError, ValueError)


# --- travelling ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES + [jsonrpc.InvalidAnswer])
def test_every_exception_pickles_and_copies(kind: Type[MCPError]) -> None:
    error = sample(kind)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(error, pickle.loads(pickle.dumps(error, protocol)))
    assert_same(error, copy.copy(error))
    assert_same(error, copy.deepcopy(error))


@pytest.mark.parametrize("kind", CLASSES)
def test_every_argument_becomes_an_attribute(kind: Type[MCPError]) -> None:
    error = sample(kind)
    for name in inspect.signature(kind).parameters:
        if not (isinstance(error, ServerError) and name == "message"):
            assert getattr(error, name) == SAMPLE_ARGUMENTS[name], name


def test_what_is_added_later_travels_as_well() -> None:
    error = MessageTooLarge("too large", limit=5)
    error.elapsed = 3.0
    setattr(error, "extra", "noted")
    assert_same(error, pickle.loads(pickle.dumps(error)))


def test_a_copy_is_independent() -> None:
    error = InputRequired("asked", {"q": {"a": 1}})
    twin = copy.deepcopy(error)
    twin.requests["q"]["a"] = 2
    assert error.requests == {"q": {"a": 1}}


# --- texts --------------------------------------------------------------------------


def test_a_message_says_where_and_how_long() -> None:
    error = MCPError("it broke", server="weather", method="ping", elapsed=2.04)
    assert str(error) == "it broke (server 'weather', ping, after 2.0 s)"
    assert str(MCPError("it broke", elapsed=0.0)) == "it broke (after 0.0 s)"
    assert str(MCPError("it broke")) == "it broke"
    assert str(MCPError()) == "MCPError"


@pytest.mark.parametrize("kind", CLASSES)
def test_no_message_is_empty(kind: Type[MCPError]) -> None:
    parameters = inspect.signature(kind).parameters.values()
    required = {
        p.name: SAMPLE_ARGUMENTS[p.name] if p.name != "message" else ""
        for p in parameters
        if p.default is p.empty
    }
    assert str(kind(**required)).strip()


def test_the_servers_words_are_cleaned_and_clipped() -> None:
    error = ServerError(-32000, "a\nb\x1b[2J" + "x" * 1000)
    assert error.server_message.startswith("a\\nb\\x1b[2Jxxx")
    assert len(str(error)) < 600 and "\n" not in str(error)
    assert str(ServerError(7, "no")) == "the server answered with error 7: no"


def test_a_dead_servers_message_ends_with_its_last_words() -> None:
    error = ServerExited(
        "exited with code 1", returncode=1, stderr_tail="API_KEY missing", server="s"
    )
    assert str(error).startswith("exited with code 1 (server 's')")
    assert str(error).endswith("\nAPI_KEY missing")
    assert str(ServerExited()) == "the server's process ended"


def test_ipython_shows_one_headline() -> None:
    error = HTTPStatusError("the server answered 503", status=503)
    assert error._render_traceback_() == ["HTTPStatusError: the server answered 503"]


# --- JSON-RPC errors ----------------------------------------------------------------


@pytest.mark.parametrize(
    "code, kind",
    [
        (-32700, ParseError),
        (-32600, InvalidRequest),
        (-32601, MethodNotFound),
        (-32602, InvalidParams),
        (-32603, InternalError),
        (-32002, ResourceNotFound),
        (-32042, exceptions.URLElicitationRequired),
        (-32020, exceptions.HeaderMismatch),
        (-32021, exceptions.MissingRequiredClientCapability),
        (-32022, UnsupportedProtocolVersion),
        (-32000, ServerError),
        (1, ServerError),
    ],
)
def test_the_code_chooses_the_class(code: int, kind: Type[ServerError]) -> None:
    error = error_for(code, "no", {"a": 1}, server="s", method="ping", elapsed=1.0)
    assert type(error) is kind
    assert (error.code, error.server_message, error.data) == (code, "no", {"a": 1})
    assert (error.server, error.method, error.elapsed) == ("s", "ping", 1.0)


@pytest.mark.parametrize(
    "method, data, kind",
    [
        ("resources/read", {"uri": "file:///a"}, ResourceNotFound),
        ("resources/read", {"uri": 5}, InvalidParams),
        ("resources/read", None, InvalidParams),
        ("tools/call", {"uri": "file:///a"}, InvalidParams),
        (None, {"uri": "file:///a"}, InvalidParams),
    ],
)
def test_a_resource_is_missing_when_the_error_names_it(
    method: Any, data: Any, kind: Type[ServerError]
) -> None:
    assert type(error_for(-32602, "no", data, method=method)) is kind


@pytest.mark.parametrize(
    "data, supported",
    [
        ({"supported": ["2024-11-05", 7, None, "x"]}, ["2024-11-05", "x"]),
        ({"supported": "2024-11-05"}, []),
        ({}, []),
        (None, []),
        (["2024-11-05"], []),
    ],
)
def test_supported_versions_are_read_with_care(data: Any, supported: List[str]) -> None:
    assert UnsupportedProtocolVersion(-32022, "no", data).supported == supported
