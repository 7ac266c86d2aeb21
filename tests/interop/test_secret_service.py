"""Stores of credentials on a real Secret Service, and on ones that are none.

Each test runs a script on a D-Bus session of its own, with a home directory of its
own; `secret_service.sh` installs what that takes and starts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

import mcpsync

ROOT = Path(mcpsync.__file__ or "").absolute().parents[1]
SESSION = Path(__file__).with_name("secret_service.sh")

#: What every script begins with; it ends by printing what it has found out.
PRELUDE = """
    import json, logging, os, subprocess, sys, threading, time
    said = []
    class Note(logging.Handler):
        def emit(self, record):
            said.append((record.levelname, record.getMessage()))
    logging.getLogger("mcpsync").addHandler(Note())
    logging.getLogger("mcpsync").setLevel(logging.INFO)
    from mcpsync.auth._records import ClientRecord, Credentials, Token
    from mcpsync.auth.stores import *
    from mcpsync.exceptions import CredentialStoreError

    # On a busy machine a keyring that works may need longer than people would wait.
    PATIENT = {"timeout": 60}
    NAME, URL = "linear", "https://mcp.example.com/mcp"
    def credentials(token, name=NAME):
        return Credentials(name, URL, ClientRecord("client", "secret"), Token(token))

    def failure(act):
        begin = time.monotonic()
        try:
            act()
        except CredentialStoreError as error:
            return str(error), time.monotonic() - begin
        return None, time.monotonic() - begin
"""

Run = Callable[..., Any]


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    """Install what is missing; it is an error where that cannot be done."""
    ran = subprocess.run(
        ["sh", str(SESSION), "install"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
    )
    if ran.returncode:
        pytest.fail(
            "no Secret Service; run as root: sh %s install\n%s"
            % (SESSION, ran.stdout[-2000:])
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a script in a session of some kind."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)

    def run_in(kind: str, script: str, *options: str) -> Dict[str, Any]:
        source = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
        path = tmp_path / "script.py"
        path.write_text("import sys; sys.path.append(%r)\n%s" % (str(ROOT), source))
        ran = subprocess.run(
            ["sh", str(SESSION), kind, sys.executable, *options, str(path)],
            env={"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=90,
        )
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout.splitlines()[-1])
        assert isinstance(found, dict)
        found["stderr"] = ran.stderr
        return found

    return run_in


# --- a keyring that works -----------------------------------------------------------


def test_credentials_are_kept_in_the_secret_service(run: Run) -> None:
    script = """
        store = KeyringStore(**PATIENT)
        found = {"before": store.load(NAME, URL) is None}
        store.save(credentials("one"))
        found["loaded"] = store.load(NAME, URL) == credentials("one")
        store.save(credentials("two"))
        other = KeyringStore(**PATIENT)
        found["replaced"] = other.load(NAME, URL) == credentials("two")
        registered = ClientRecord("x", "y", issuer="https://as.example.com")
        store.save_registration(registered)
        found["registered"] = store.load_registration(registered.issuer) == registered
        found["deleted"] = [store.delete(NAME, URL), store.delete(NAME, URL)]
        found["after"] = store.load(NAME, URL) is None
        found["name"] = store.name
        threads = [t.name for t in threading.enumerate()]
        print(json.dumps({**found, "threads": threads, "said": said}))
    """
    found = run("unlocked", script, "-X", "dev", "-W", "error")
    assert found["before"] and found["loaded"] and found["replaced"]
    assert found["registered"] and found["after"]
    assert found["deleted"] == [True, False]
    assert found["name"] == "the keyring (keyring.backends.SecretService.Keyring)"
    assert found["said"] == []
    assert "ResourceWarning" not in found["stderr"]


def test_the_automatic_store_takes_it(run: Run) -> None:
    script = """
        store = AutoStore(**PATIENT)
        found = {"nothing": store.load(NAME, URL) is None}
        found["untouched"] = "keyring" not in sys.modules
        store.save(credentials("one"))
        found["elsewhere"] = AutoStore(**PATIENT).load(NAME, URL) == credentials("one")
        found["files"] = sorted(os.listdir(os.path.expanduser("~/.mcpsync")))
        found["deleted"] = store.delete(NAME, URL)
        print(json.dumps({**found, "said": said}))
    """
    found = run("unlocked", script, "-X", "dev", "-W", "error")
    assert found["nothing"] and found["untouched"]
    assert found["elsewhere"] and found["deleted"]
    assert found["files"] == [".credentials-index.json", "mcp-oauth-locks"]
    assert [level for level, _ in found["said"]] == ["INFO", "INFO"]
    assert "SecretService" in found["said"][0][1]


def test_entries_are_shared_with_codex(run: Run) -> None:
    # The attributes and the text are those that Codex's library writes.
    script = """
        account = account_key(NAME, URL)
        attributes = ["service", CODEX_SERVICE, "username", account]
        def entry(token):
            response = {"access_token": token, "token_type": "bearer", "scope": "a b"}
            return json.dumps({
                "server_name": NAME, "url": URL, "client_id": "codex",
                "token_response": response, "expires_at": 1893456000250,
            })
        subprocess.run(
            ["secret-tool", "store", "--label", "x", *attributes,
             "target", "default", "application", "rust-keyring"],
            input=entry("of codex").encode(), check=True,
        )
        store = KeyringStore(service=CODEX_SERVICE, **PATIENT)
        loaded = store.load(NAME, URL)
        found = {"token": loaded.token.access_token, "scope": loaded.token.scope}
        store.save(credentials("ours"))
        found["reloaded"] = store.load(NAME, URL).token.access_token
        look_up = ["secret-tool", "lookup", *attributes]
        text = subprocess.run(look_up, stdout=subprocess.PIPE, check=True).stdout
        found["seen"] = json.loads(text)["token_response"]["access_token"]
        found["deleted"] = store.delete(NAME, URL)
        left = subprocess.run(look_up, stdout=subprocess.PIPE).stdout
        print(json.dumps({**found, "left": left.decode()}))
    """
    found = run("unlocked", script)
    assert (found["token"], found["scope"]) == ("of codex", ["a", "b"])
    # One entry for each program would let the old one win.
    assert (found["reloaded"], found["seen"]) == ("ours", "ours")
    assert found["deleted"] and not found["left"]


def test_a_value_may_be_long_and_kept_in_parts(run: Run) -> None:
    script = """
        long = credentials("x" * 20000)
        whole = KeyringStore(**PATIENT)
        parts = KeyringStore(service="parts", chunk_above=1200, **PATIENT)
        found = {}
        for name, store in (("whole", whole), ("parts", parts)):
            store.save(long)
            store.save(credentials("y" * 15000))
            store.save(long)
            found[name] = store.load(NAME, URL) == long
        found["deleted"] = parts.delete(NAME, URL)
        search = ["secret-tool", "search", "--all", "service", "parts"]
        ran = subprocess.run(search, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        print(json.dumps({**found, "left": ran.stdout.decode()}))
    """
    found = run("unlocked", script)
    assert found["whole"] and found["parts"] and found["deleted"]
    assert found["left"] == ""


def test_many_threads_and_a_forked_child_use_it(run: Run) -> None:
    script = """
        store, failures = KeyringStore(**PATIENT), []
        def work(name):
            try:
                for number in range(5):
                    store.save(credentials("%d" % number, name))
                    assert store.load(name, URL) == credentials("%d" % number, name)
            except BaseException as error:
                failures.append(repr(error))
        threads = [threading.Thread(target=work, args=("s%d" % n,)) for n in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        child = os.fork()
        if not child:
            os._exit(store.load("s0", URL) != credentials("4", "s0"))
        status = os.waitpid(child, 0)[1]
        print(json.dumps({"failures": failures, "child": status, "said": said}))
    """
    found = run("unlocked", script)
    assert (found["failures"], found["child"], found["said"]) == ([], 0, [])


def test_a_service_that_is_killed_is_an_error_and_no_loss(run: Run) -> None:
    script = """
        store, killed = KeyringStore(**PATIENT), 0
        store.save(credentials("one"))
        home = ("HOME=" + os.environ["HOME"]).encode()
        for number in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/environ" % number, "rb") as environ:
                    is_ours = home in environ.read().split(b"\\0")
                with open("/proc/%s/comm" % number) as name:
                    is_ours = is_ours and name.read().startswith("gnome-keyring")
            except OSError:
                continue
            if is_ours:
                os.kill(int(number), 9)
                killed += 1
        error, seconds = failure(lambda: store.save(credentials("two")))
        print(json.dumps({"error": error, "seconds": seconds, "killed": killed}))
    """
    found = run("unlocked", script)
    # D-Bus starts another one, which nobody has unlocked.
    assert found["killed"] == 1
    assert "the keyring cannot be used" in found["error"]
    assert found["seconds"] < 30
    again = """
        loaded = KeyringStore(**PATIENT).load(NAME, URL)
        print(json.dumps({"kept": loaded == credentials("one")}))
    """
    assert run("unlocked", again)["kept"]


# --- a keyring that does not --------------------------------------------------------


@pytest.mark.parametrize(
    "kind, reason",
    [("locked", "KeyringLocked"), ("absent", "there is none")],
)
def test_without_one_the_file_is_taken_at_once(
    run: Run, kind: str, reason: str
) -> None:
    script = """
        begin = time.monotonic()
        store = AutoStore(**PATIENT)
        store.save(credentials("one"))
        store.save(credentials("two"))
        seconds = time.monotonic() - begin
        error, _ = failure(lambda: KeyringStore(**PATIENT).load(NAME, URL))
        loaded = AutoStore(**PATIENT).load(NAME, URL) == credentials("two")
        path = os.path.expanduser("~/.mcpsync/.credentials.json")
        mode = os.stat(path).st_mode & 0o777
        print(json.dumps(
            {"seconds": seconds, "error": error, "loaded": loaded, "mode": mode,
             "said": said}
        ))
    """
    found = run(kind, script)
    assert reason in found["error"]
    assert found["loaded"] and found["mode"] == 0o600
    warnings = [text for level, text in found["said"] if level == "WARNING"]
    assert warnings and reason in warnings[0]
    kept = [text for level, text in found["said"] if level == "INFO"]
    assert ".credentials.json" in kept[0]
    # Other than a service that hangs, these answer.
    assert found["seconds"] < 30


def test_a_service_that_never_answers_costs_its_limit_once(run: Run) -> None:
    script = """
        begin = time.monotonic()
        anonymous = AutoStore().load("somebody", "https://else.example.com")
        found = {"anonymous": time.monotonic() - begin}
        found["untouched"] = anonymous is None and "keyring" not in sys.modules
        store = AutoStore()
        found["search"] = failure(lambda: store.search(NAME, URL))
        found["save"] = failure(lambda: store.save(credentials("one")))
        found["again"] = failure(lambda: KeyringStore().load(NAME, URL))
        found["loaded"] = AutoStore().load(NAME, URL) == credentials("one")
        found["thread"] = [
            [t.name, t.daemon] for t in threading.enumerate() if "keyring" in t.name
        ]
        print(json.dumps({**found, "said": said}))
    """
    found = run("dead", script)
    # It would be two minutes for each.
    assert found["untouched"] and found["anonymous"] < 2
    assert 4 < found["search"][1] < 30
    assert found["save"] == [None, pytest.approx(0, abs=3)]
    assert "within 5 s" in found["again"][0] and found["again"][1] < 3
    assert found["loaded"]
    assert found["thread"] == [["mcpsync-keyring", True]]
    warnings = [text for level, text in found["said"] if level == "WARNING"]
    assert len(warnings) == 1 and "within 5 s" in warnings[0]


@pytest.mark.parametrize("kind", ["dead", "locked", "absent"])
def test_what_a_client_pays_for_a_desktop_without_one(run: Run, kind: str) -> None:
    script = """
        import mcpsync
        from mcpsync.demo import serve_http
        from mcpsync.demo._handler import Handler

        class Guarded(Handler):
            def _route(self, paths):
                self._read_body()
                self._reply(401, b"", [("WWW-Authenticate", "Bearer")])

        with serve_http() as server:
            with mcpsync.connect(server.url) as client:
                client.ping()
            found = {"untouched": "keyring" not in sys.modules}
        found["refused"] = []
        with serve_http() as server:
            server._server.RequestHandlerClass = Guarded
            for _ in range(3):
                begin = time.monotonic()
                try:
                    mcpsync.connect(server.url)
                except mcpsync.LoginRequired:
                    found["refused"].append(time.monotonic() - begin)
        print(json.dumps({**found, "said": said}))
    """
    found = run(kind, script)
    # A server that wants no login costs nothing; others the limit, and only once.
    assert found["untouched"]
    first, second, third = found["refused"]
    assert (4 if kind == "dead" else 0) < first < 30
    assert second < 4 and third < 4
    warnings = [text for level, text in found["said"] if level == "WARNING"]
    assert len(warnings) == 1 and "keyring" in warnings[0]
