"""What the tests of the demo server say to it: messages, pipes and sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import time

MODERN = "2026-07-28"
LEGACY = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
PREFIX = "io.modelcontextprotocol/"
SECONDS = 10
ALL_CAPABILITIES = {"elicitation": {}, "sampling": {}, "roots": {}}

QUESTIONS = [
    ("ask", {"question": "who?"}, "elicitation/create"),
    ("greet_roots", {}, "roots/list"),
    ("summarize", {"text": "long"}, "sampling/createMessage"),
]
ANSWERS = {
    "ask": {"action": "accept", "content": {"name": "Bo", "ok": False}},
    "greet_roots": {"roots": [{"uri": "file:///w", "name": "w"}]},
    "summarize": {
        "role": "assistant",
        "content": {"type": "text", "text": "short"},
        "model": "m",
    },
}
OUTCOMES = {
    "ask": ANSWERS["ask"],
    "greet_roots": ANSWERS["greet_roots"],
    "summarize": {"summary": "short", "model": "m"},
}


def request(request_id, method, **params):
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def modern(request_id, method, *, capabilities=None, meta=None, **params):
    params["_meta"] = {
        PREFIX + "protocolVersion": MODERN,
        PREFIX + "clientCapabilities": capabilities or {},
        **(meta or {}),
    }
    return request(request_id, method, **params)


def modern_call(request_id, tool, arguments=None, **more):
    more.update(name=tool, arguments=arguments or {})
    return modern(request_id, "tools/call", **more)


def call(request_id, tool, arguments=None, **params):
    params.update(name=tool, arguments=arguments or {})
    return request(request_id, "tools/call", **params)


def initialize(version=LEGACY[0], capabilities=None):
    return request(
        "init",
        "initialize",
        protocolVersion=version,
        capabilities=capabilities or {},
        clientInfo={"name": "test", "version": "1"},
    )


def cancelled(request_id):
    params = {"requestId": request_id}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


def answer(question, result):
    return {"jsonrpc": "2.0", "id": question["id"], "result": result}


def until(condition):
    """Wait until a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "condition never held"
        time.sleep(0.005)


def listen(request_id, **wanted):
    return modern(request_id, "subscriptions/listen", notifications=wanted)


class Pipes:
    """A demo server as a child process."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcpsync.demo", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.data = b""

    def send(self, *messages):
        lines = [json.dumps(message).encode() + b"\n" for message in messages]
        self.process.stdin.write(b"".join(lines))
        self.process.stdin.flush()

    def receive(self):
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.data:
            assert select.select([descriptor], [], [], SECONDS)[0], "no message"
            data = os.read(descriptor, 65536)
            assert data, "the server closed its output"
            self.data += data
        line, _, self.data = self.data.partition(b"\n")
        return json.loads(line)

    def ask(self, message):
        self.send(message)
        return self.receive()

    def end(self):
        """Close the input; return exit code, output left and standard error."""
        self.process.stdin.close()
        code = self.process.wait(SECONDS)
        return code, self.data + self.process.stdout.read(), self.process.stderr.read()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait(SECONDS)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


class Reply:
    """An HTTP response: as JSON, or event by event."""

    def __init__(self, response):
        self.response = response
        self.status = response.status
        self.headers = response.headers

    @property
    def is_stream(self):
        return self.headers["Content-Type"] == "text/event-stream"

    def json(self):
        return json.loads(self.response.read())

    def event(self):
        """Return the next event as a dict of its fields, None at the end."""
        fields = {}
        while True:
            line = self.response.readline().decode()
            if not line:
                return None
            if line == "\n" and fields:
                return fields
            if line != "\n" and not line.startswith(":"):
                name, _, value = line.rstrip("\n").partition(":")
                fields[name] = value[1:] if value.startswith(" ") else value

    def message(self):
        """Return the next event's message, passing over those without one."""
        while True:
            fields = self.event()
            if fields is None:
                return None
            if fields.get("data"):
                return json.loads(fields["data"])


def connection(port):
    return contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    )


def modern_headers(message):
    params = message["params"]
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
    name = params.get("name", params.get("uri"))
    if name is not None:
        headers["Mcp-Name"] = name
    return headers


def post(http_connection, message, headers=None, path="/mcp"):
    every = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }
    every.update(modern_headers(message) if headers is None else headers)
    every = {name: value for name, value in every.items() if value is not None}
    body = message if isinstance(message, bytes) else json.dumps(message)
    http_connection.request("POST", path, body, every)
    return Reply(http_connection.getresponse())


def get(http_connection, headers, path="/mcp"):
    every = {"Accept": "text/event-stream", **headers}
    http_connection.request("GET", path, headers=every)
    return Reply(http_connection.getresponse())


def open_session(http_connection, version=LEGACY[0], capabilities=None):
    """Open a legacy session; return its headers."""
    reply = post(http_connection, initialize(version, capabilities), {})
    assert reply.json()["result"]["protocolVersion"] == version
    headers = {"Mcp-Session-Id": reply.headers["Mcp-Session-Id"]}
    if version >= "2025-06-18":
        headers["MCP-Protocol-Version"] = version
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    reply = post(http_connection, note, headers)
    assert (reply.status, reply.response.read()) == (202, b"")
    return headers
