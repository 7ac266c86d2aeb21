"""The client's own promises: typed failures that name the server."""

from __future__ import annotations

import copy
import decimal
import gc
import pickle
import threading
import weakref
from typing import Any, Callable, Dict, Iterator, List

import pytest

import mcpsync
from mcpsync.testing import serve
from mcpsync.types import Implementation

from .fakes import CANARY
from .fakes.scripted_memory import LEGACY, MODERN, scripted
from .fakes.stdio_server import python_server

Call = Callable[[mcpsync.Client], Any]


@pytest.fixture
def client() -> Iterator[mcpsync.Client]:
    with serve("memory") as server:
        with mcpsync.connect(server.target, name="mine", timeout=5) as client:
            yield client


@pytest.fixture
def legacy() -> Iterator[mcpsync.Client]:
    with serve("memory", era="legacy") as server:
        with mcpsync.connect(server.target, name="mine", timeout=5) as client:
            yield client


def fails(client: mcpsync.Client, kind: type, call: Call, method: str) -> str:
    """Check a failure, and that the connection survives it; return what it says."""
    with pytest.raises(kind) as caught:
        call(client)
    error = caught.value
    assert isinstance(error, mcpsync.MCPError)
    assert (error.server, error.method) == (client.name, method)
    assert error.elapsed is not None and 0 <= error.elapsed < 60
    text = str(error)
    assert client.name in text and method in text
    return text


WRONG_ARGUMENTS: List[Any] = [
    (lambda c: c.call_tool(5), "tools/call", "name must be a string, not int"),
    (lambda c: c.call_tool("x", [1]), "tools/call", "must be a mapping, not list"),
    (lambda c: c.call_tool("x", "a=1"), "tools/call", "must be a mapping, not str"),
    (lambda c: c.call_tool("x", {1: 2}), "tools/call", "strings as keys, not 1"),
    (lambda c: c.call_tool("x", meta=5), "tools/call", "must be a mapping, not int"),
    (lambda c: c.call_tool("x", on_progress=5), "tools/call", "must be a function"),
    (lambda c: c.read_resource(5), "resources/read", "URI must be a string, not int"),
    (lambda c: c.read_resource(None), "resources/read", "must be a string"),
    (lambda c: c.get_prompt(5), "prompts/get", "name must be a string, not int"),
    (lambda c: c.get_prompt("x", {"a": 5}), "prompts/get", "'a' must be a string"),
    (lambda c: c.get_prompt("x", 5), "prompts/get", "must be a mapping, not int"),
    (lambda c: c.complete(5, {}), "completion/complete", "must be"),
    (lambda c: c.complete({}, 5), "completion/complete", "must be"),
    (lambda c: c.complete({}, {}, 5), "completion/complete", "must be a mapping"),
    (lambda c: c.list_tools_page(5), "tools/list", "cursor must be a string, not int"),
    (lambda c: c.list_prompts_page(5), "prompts/list", "must be a string, not int"),
    (lambda c: c.set_log_level("loud"), "logging/setLevel", "'loud' is no log level"),
    (lambda c: c.set_log_level(5), "logging/setLevel", "5 is no log level"),
    (lambda c: c.subscribe_resource(5), "resources/subscribe", "must be a string"),
]


@pytest.mark.parametrize("call, method, said", WRONG_ARGUMENTS)
def test_wrong_arguments(
    client: mcpsync.Client, call: Call, method: str, said: str
) -> None:
    assert said in fails(client, mcpsync.InvalidArguments, call, method)
    client.ping()


@pytest.mark.parametrize("method", [5, None, [], {"a": 1}])
def test_a_method_that_is_none(client: mcpsync.Client, method: Any) -> None:
    with pytest.raises(mcpsync.InvalidArguments, match="must be a string") as caught:
        client.request(method)
    assert caught.value.server == "mine"
    with pytest.raises(mcpsync.InvalidArguments, match="must be a string"):
        client.notify(method)
    with pytest.raises(mcpsync.InvalidArguments, match="must be a mapping"):
        client.request("x/y", [1])
    with pytest.raises(mcpsync.InvalidArguments, match="must be a mapping"):
        client.notify("x/y", "z")
    client.ping()


@pytest.mark.parametrize("timeout", ["5", True, [1], object()])
def test_a_timeout_of_no_known_kind(client: mcpsync.Client, timeout: Any) -> None:
    with pytest.raises(TypeError, match="seconds"):
        client.call_tool("x", timeout=timeout)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_of_no_length(client: mcpsync.Client, timeout: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        client.call_tool("x", timeout=timeout)


def circle() -> List[Any]:
    inner: List[Any] = []
    inner.append(inner)
    return inner


def deep() -> List[Any]:
    value: List[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        {1, 2},
        b"bytes",
        object(),
        decimal.Decimal("1.5"),
        {(1, 2): 3},
        circle(),
        lambda: None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_does_not_have(client: mcpsync.Client, value: Any) -> None:
    def call(client: mcpsync.Client) -> Any:
        return client.call_tool("echo", {"message": "x", "a": {"deep": [value]}})

    text = fails(client, mcpsync.InvalidArguments, call, "tools/call")
    assert "JSON" in text
    with pytest.raises(mcpsync.InvalidArguments):
        client.notify("x/y", {"a": value})
    assert client.call_tool("echo", {"message": "x"}).data


def test_what_is_nested_too_deeply(client: mcpsync.Client) -> None:
    value = deep()
    with pytest.raises(mcpsync.InvalidArguments):
        client.call_tool("echo", {"message": "x", "a": value})
    client.ping()
    while value:
        # Freed step by step: the interpreter's own stack is no deeper than ours.
        value = value.pop()


def test_the_caller_s_arguments_stay_as_they_are(client: mcpsync.Client) -> None:
    arguments = {"message": "x"}
    meta = {"own": {"a": 1}}
    before = copy.deepcopy((arguments, meta))
    client.call_tool("echo", arguments, meta=meta, on_progress=lambda *_: None)
    assert (arguments, meta) == before


def test_methods_of_another_era(client: mcpsync.Client, legacy: mcpsync.Client) -> None:
    for call, method in [
        (lambda c: c.request("ping"), "ping"),
        (lambda c: c.request("initialize"), "initialize"),
        (
            lambda c: c.notify("notifications/roots/list_changed"),
            "notifications/roots/list_changed",
        ),
    ]:
        text = fails(client, mcpsync.MethodNotInEra, call, method)
        assert "2026-07-28" in text
    call = lambda c: c.request("subscriptions/listen")  # noqa: E731
    fails(legacy, mcpsync.MethodNotInEra, call, "subscriptions/listen")


@pytest.mark.parametrize("version", [MODERN, LEGACY])
def test_capabilities_that_the_server_lacks(version: str) -> None:
    with scripted({}, version=version, capabilities={"tools": {}}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            ref = {"type": "ref/prompt", "name": "x"}
            cases: List[Any] = [
                (lambda c: c.complete(ref, {"name": "a"}), "completion/complete"),
            ]
            if version == LEGACY:
                cases += [
                    (lambda c: c.set_log_level("info"), "logging/setLevel"),
                    (lambda c: c.subscribe_resource("x:y"), "resources/subscribe"),
                ]
            sent = len(server.received)
            for call, method in cases:
                text = fails(client, mcpsync.CapabilityMissing, call, method)
                assert "did not declare" in text
            # Nothing was sent, and the connection is as good as before.
            assert len(server.received) == sent
            client.ping()


def test_a_level_that_a_server_without_logging_cannot_set() -> None:
    with scripted({}, version=LEGACY, capabilities={}) as server:
        # Wanted, not demanded: such a server is connected to all the same.
        with mcpsync.connect(server.transport, log_level="debug") as client:
            client.ping()


@pytest.mark.parametrize("version", [MODERN, LEGACY])
def test_facts_that_the_server_does_not_tell(version: str) -> None:
    def discover(incoming: Any) -> Dict[str, Any]:
        return {"supportedVersions": [MODERN], "instructions": 5}

    def initialize(incoming: Any) -> Dict[str, Any]:
        return {"protocolVersion": LEGACY, "serverInfo": [], "capabilities": "none"}

    methods = {"server/discover": discover, "initialize": initialize}
    if version == LEGACY:
        del methods["server/discover"]
    with scripted(methods, version=version) as server:
        with mcpsync.connect(server.transport) as client:
            assert client.protocol_version == version
            assert client.server_info is None and client.instructions is None
            assert not client.capabilities.supports("tools")
            assert client.stderr_tail == ""


def test_capabilities_that_make_no_sense() -> None:
    with scripted({}, capabilities={"tools": True}) as server:
        with mcpsync.connect(server.transport) as client:
            with pytest.raises(mcpsync.UnexpectedResult, match="tools") as caught:
                client.capabilities
            assert caught.value.server == "scripted"
            client.ping()


def test_who_the_client_says_it_is() -> None:
    info = {"name": "host", "version": "7"}
    with scripted({}) as server:
        with mcpsync.connect(server.transport, client_info=info):
            (discover,) = server.of("server/discover")
    meta = discover["params"]["_meta"]
    assert meta["io.modelcontextprotocol/clientInfo"] == info
    with scripted({}, version=LEGACY) as server:
        with mcpsync.connect(server.transport, client_info=info):
            (initialize,) = server.of("initialize")
    assert initialize["params"]["clientInfo"] == info


def test_server_info(client: mcpsync.Client) -> None:
    info = client.server_info
    assert isinstance(info, Implementation) and info.name == "mcpsync-demo"


def test_a_client_is_not_pickled(client: mcpsync.Client) -> None:
    with pytest.raises(TypeError, match="live connection"):
        pickle.dumps(client)
    with pytest.raises(TypeError, match="live connection"):
        copy.copy(client)


def test_making_a_client_does_nothing() -> None:
    threads = threading.active_count()
    clients = [
        mcpsync.Client(["/nonexistent"]),
        mcpsync.Client("http://127.0.0.1:9/mcp"),
    ]
    assert threading.active_count() == threads
    assert not any(client.is_open for client in clients)
    for client in clients:
        client.close()


@pytest.mark.parametrize("kind", ["stdio", "http", "sse", "memory"])
def test_a_forgotten_client_goes(kind: str) -> None:
    with serve(kind) as server:
        client = mcpsync.connect(server.target, on_notification=lambda n: None)
        assert client.call_tool("echo", {"message": "x"}).data
        seen = weakref.ref(client)
        # Nothing that serves it holds it; the leak check looks for the rest.
        del client
        gc.collect()
        assert seen() is None


def test_what_is_secret_stays_secret() -> None:
    source = """
    log("the key is " + os.environ["API_KEY"])
    shake_hands()
    serve({"tools/call": lambda params: sys.exit(1)})
    """
    with mcpsync.connect(python_server(source), env={"API_KEY": CANARY}) as client:
        with pytest.raises(mcpsync.ServerExited) as caught:
            client.call_tool("x")
        assert "the key is ***" in str(caught.value)
        assert CANARY not in str(caught.value) + client.stderr_tail + repr(client)


def test_failures_travel_between_processes(client: mcpsync.Client) -> None:
    with pytest.raises(mcpsync.InvalidParams) as caught:
        client.call_tool("nothing")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is mcpsync.InvalidParams and str(again) == str(caught.value)
    assert (again.server, again.method, again.code) == ("mine", "tools/call", -32602)
