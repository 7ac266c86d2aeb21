"""Scripted stdio servers: real child processes that do one odd thing each.

``python_server(source)`` returns an argv list. The source may use::

    read()                          the next message, None at the end of the input
    say(obj)                        write one message; a str or bytes is written as is
    answer(request, result)         answer a request
    fail(request, code, text)       answer it with an error
    note(method, params)            a notification
    shake_hands(**result)           refuse discovery, then a whole legacy handshake
    serve(methods)                  answer until the input ends; {method: f(params)}
    log(text)                       a line on stderr
"""

from __future__ import annotations

import sys
import textwrap
from typing import List

__all__ = [
    "CLOSES_STDOUT",
    "DIES_ON_DISCOVER",
    "FLOODS_STDERR",
    "IGNORES_DISCOVER",
    "IGNORES_EVERYTHING",
    "IGNORES_SIGTERM",
    "LEAVES_GRANDCHILD",
    "LEGACY",
    "MODERN",
    "NEVER_READS",
    "PRINTS_JUNK",
    "exits_with",
    "python_server",
]

_PRELUDE = r"""
import json, os, signal, sys, time

def read():
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            return None
        if line.strip():
            return json.loads(line)

def say(obj):
    if isinstance(obj, str):
        obj = obj.encode()
    if not isinstance(obj, bytes):
        obj = json.dumps(obj).encode() + b"\n"
    sys.stdout.buffer.write(obj)
    sys.stdout.buffer.flush()

def answer(request, result):
    say({"jsonrpc": "2.0", "id": request["id"], "result": result})

def fail(request, code, text="no", data=None):
    error = {"code": code, "message": text}
    if data is not None:
        error["data"] = data
    say({"jsonrpc": "2.0", "id": request["id"], "error": error})

def note(method, params=None):
    say({"jsonrpc": "2.0", "method": method, "params": params or {}})

def log(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()

def shake_hands(**result):
    # Returns the parameters of `initialize`, None when the input ends before.
    params = None
    while True:
        message = read()
        if message is None:
            return None
        method = message.get("method")
        if method == "initialize":
            params = message["params"]
            answer(message, {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
                **result,
            })
        elif method == "notifications/initialized":
            return params
        elif "id" in message:
            fail(message, -32601, "not yet: %s" % method)

def discovered(**result):
    return {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}},
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo":
                  {"name": "scripted", "version": "1"}},
        **result,
    }

def serve(methods=None):
    known = {"ping": lambda params: {}, "tools/list": lambda params: {"tools": []}}
    known.update(methods or {})
    while True:
        message = read()
        if message is None:
            return
        if "id" not in message or "method" not in message:
            continue
        if message["method"] in known:
            answer(message, known[message["method"]](message.get("params") or {}))
        else:
            fail(message, -32601, "unknown: %s" % message["method"])

def text(value):
    return {"content": [{"type": "text", "text": value}]}
"""


def python_server(*sources: str) -> List[str]:
    """Return the argv of a child that runs the sources, one after the other."""
    source = "\n".join(textwrap.dedent(part) for part in sources)
    return [sys.executable, "-u", "-c", _PRELUDE + source]


def exits_with(code: int, last_words: str = "") -> List[str]:
    """Return a server that ends at once, after a line on stderr."""
    return python_server("log(%r)\nsys.exit(%d)" % (last_words, code))


_ECHO = 'serve({"tools/call": lambda params: text(params["name"])})'

#: Knows only the handshake of 2025-06-18; its one tool returns its own name.
LEGACY = python_server("shake_hands()", _ECHO)

#: Knows no handshake; the same tool.
MODERN = python_server("""
    serve({
        "server/discover": lambda params: discovered(),
        "tools/list": lambda params: {"resultType": "complete", "tools": [],
                                      "ttlMs": 0, "cacheScope": "private"},
        "tools/call": lambda params: {"resultType": "complete",
                                      **text(params["name"])},
    })
    """)

#: Ends with code 3 when the first message is not ``initialize``.
DIES_ON_DISCOVER = python_server(
    """
    first = read()
    if first is not None and first["method"] != "initialize":
        log("expected initialize, got " + first["method"])
        sys.exit(3)
    if first is not None:
        answer(first, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "scripted", "version": "1"}})
    """,
    _ECHO,
)

#: Says nothing about anything before ``initialize``.
IGNORES_DISCOVER = python_server(
    """
    message = read()
    while message is not None and message.get("method") != "initialize":
        message = read()
    if message is not None:
        answer(message, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                         "serverInfo": {"name": "scripted", "version": "1"}})
    """,
    _ECHO,
)

#: Reads, and never says a word.
IGNORES_EVERYTHING = python_server("""
    while read() is not None:
        pass
    """)

#: Writes a banner, blank lines, half of a message and bytes that are no text.
PRINTS_JUNK = python_server(
    r"""
    say("Welcome to the server!\n\n\r\n")
    say(b"\xff\xfe\x00\n")
    say('{"jsonrpc": "2.0", \n')
    shake_hands()
    """,
    _ECHO,
)

#: Writes 8 MiB to stderr before every answer.
FLOODS_STDERR = python_server("""
    def flood(params):
        for _ in range(128):
            sys.stderr.write("x" * 65535 + "\\n")
        return text("done")
    shake_hands()
    serve({"tools/call": flood})
    """)

#: Shakes hands, then never reads again; ends when it is killed, or after a minute.
NEVER_READS = python_server("""
    if shake_hands() is not None:
        time.sleep(60)
    """)

#: Closes its output after the handshake but lives on.
CLOSES_STDOUT = python_server("""
    shake_hands()
    os.close(1)
    while read() is not None:
        pass
    """)

#: Ignores SIGTERM and the end of its input.
IGNORES_SIGTERM = python_server(
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    shake_hands()
    """,
    _ECHO,
    "time.sleep(60)",
)

#: Its tool starts a process in a session of its own that keeps stdout and stderr open
#: for 20 s, and returns that process's id.
LEAVES_GRANDCHILD = python_server("""
    import subprocess
    def leave(params):
        grandchild = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(20)"],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )
        return text(str(grandchild.pid))
    shake_hands()
    serve({"tools/call": leave})
    """)
