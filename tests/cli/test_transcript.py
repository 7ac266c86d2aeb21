"""A transport that notes what passes."""

from __future__ import annotations

import threading

import pytest

import mcpsync
from mcpsync.cli._transcript import Entry, RecordingTransport, Transcript
from mcpsync.testing import serve


@pytest.fixture(params=["stdio", "http", "memory"])
def inner(request):
    with serve(request.param) as server:
        target = server.target
        if request.param == "stdio":
            target = mcpsync.StdioTransport(target)
        elif request.param == "http":
            target = mcpsync.StreamableHTTPTransport(target)
        yield target


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_a_recorded_client_works_as_any_other(inner, protocol):
    transcript = Transcript()
    transport = RecordingTransport(inner, transcript)
    with mcpsync.connect(transport, protocol=protocol) as client:
        assert client.name == inner.name
        assert len(client.list_tools()) == 17
        seen = []
        client.call_tool(
            "count",
            {"to": 2, "delay": 0.1},
            on_progress=lambda *facts: seen.append(facts[0]),
        )
        assert seen == [1, 2]
        with pytest.raises(mcpsync.InvalidParams):
            client.call_tool("nope")
    last = transcript.entries[-2:]
    number = last[0].id
    assert last == [
        Entry("sent", "request", "tools/call", number),
        Entry("received", "error", "tools/call", number),
    ]
    assert str(last[1]) == "<- error        tools/call #%d" % number
    assert last[1].to_json() == {
        "direction": "received",
        "kind": "error",
        "method": "tools/call",
        "id": number,
    }


def test_questions_are_noted_with_their_answers(inner):
    transcript = Transcript()
    with mcpsync.connect(
        RecordingTransport(inner, transcript),
        protocol="legacy",
        on_elicitation=lambda request: {},
    ) as client:
        client.call_tool("ask", {"question": "who?"})
    questions = [e for e in transcript.entries if e.method == "elicitation/create"]
    assert [(e.direction, e.kind) for e in questions] == [
        ("received", "request"),
        ("sent", "result"),
    ]
    assert questions[0].id == questions[1].id


def test_a_call_can_be_cancelled(inner):
    transcript = Transcript()
    with mcpsync.connect(RecordingTransport(inner, transcript)) as client:
        pending = client.start_call("wait", {"seconds": 60})
        while not any(e.method == "tools/call" for e in transcript.entries):
            threading.Event().wait(0.01)
        assert pending.cancel()
        with pytest.raises(mcpsync.RequestCancelled):
            pending.result(10)
        assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}


def test_the_older_transport_is_recorded_as_well():
    transcript = Transcript()
    with serve("sse") as server:
        transport = RecordingTransport(
            mcpsync.StreamableHTTPTransport(server.target), transcript
        )
        with mcpsync.connect(transport) as client:
            assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
    methods = [e.method for e in transcript.entries if e.direction == "sent"]
    assert methods[-1] == "tools/call"
    assert "initialize" in methods
