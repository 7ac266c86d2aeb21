"""Servers that die or are restarted while a client is connected to them."""

from __future__ import annotations

import os
import signal

import pytest

import mcpsync


def test_a_restarted_http_server_is_connected_to_again(restartable):
    options = {"protocol": restartable.peer.protocol, "timeout": 30}
    with mcpsync.connect(restartable.url, **options) as client:
        assert client.protocol_version == restartable.peer.version
        assert client.call_tool("add", {"a": 1, "b": 1}).data == {"total": 2}
        restartable.restart()
        # Its session, where it had one, is unknown to the new process; the call
        # cannot have been executed, so it is made again.
        assert client.call_tool("add", {"a": 2, "b": 2}).data == {"total": 4}
        assert client.call_tool("counts").data["started"] == 0


def test_a_killed_child_fails_its_call_and_is_started_again(
    child_server, children, eventually
):
    before = children()
    with child_server.connect() as client:
        first = client.call_tool("process_id").data["result"]
        call = client.start_call("wait", {"seconds": 60})
        eventually(lambda: client.call_tool("counts").data["running"] == 1)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(mcpsync.ServerExited) as raised:
            call.result(30)
        assert raised.value.returncode == -signal.SIGKILL
        second = client.call_tool("process_id").data["result"]
        assert second != first
        assert first not in children()
    assert children() == before
