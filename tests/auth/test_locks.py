"""Locks on credentials: between threads, between processes, and after a fork."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from mcpsync.auth import _lock
from mcpsync.auth._lock import locked
from mcpsync.auth.stores import FileStore, MemoryStore
from mcpsync.exceptions import CredentialLockTimeout, CredentialStoreError

from ..fakes import bounded
from .storing import NAME, URL, run_script, start_script

HOLDER = """
    import sys
    from mcpsync.auth._lock import locked
    with locked(sys.argv[1], 10):
        print("held", flush=True)
        sys.stdin.readline()
    print("released", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "locks" / "one.lock")


@contextmanager
def holder(path: str) -> "Iterator[subprocess.Popen[str]]":
    """Run a process that holds the lock until it gets a line."""
    process = start_script(HOLDER, path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def is_free(path: str) -> bool:
    try:
        with locked(path, 0):
            return True
    except CredentialLockTimeout:
        return False


# --- threads ------------------------------------------------------------------------


def test_one_thread_holds_it_at_a_time(path: str) -> None:
    with locked(path, 0):
        assert not bounded(lambda: is_free(path))
    assert bounded(lambda: is_free(path))


def test_a_waiting_thread_gets_it_when_it_is_free(path: str) -> None:
    order: List[str] = []
    tried = threading.Event()

    def wait() -> None:
        tried.set()
        with locked(path, 10):
            order.append("second")

    with locked(path, 0):
        thread = threading.Thread(target=wait)
        thread.start()
        assert tried.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_it_is_not_reentrant(path: str) -> None:
    with locked(path, 0), pytest.raises(CredentialLockTimeout):
        with locked(path, 0.01):
            raise AssertionError("entered twice")


def test_an_error_inside_gives_it_back(path: str) -> None:
    with pytest.raises(KeyError), locked(path, 0):
        raise KeyError("inside")
    assert is_free(path)


def test_many_threads_and_processes_lose_no_update(tmp_path: Path) -> None:
    script = """
        import sys, threading
        from mcpsync.auth._lock import locked
        path, counter = sys.argv[1:]
        def count():
            for _ in range(25):
                with locked(path, 30):
                    with open(counter) as file:
                        value = int(file.read())
                    with open(counter, "w") as file:
                        file.write(str(value + 1))
        threads = [threading.Thread(target=count) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    counter = tmp_path / "counter"
    counter.write_text("0")
    others = [start_script(script, tmp_path / "lock", counter) for _ in range(2)]
    outcomes = [other.communicate(timeout=60) for other in others]
    assert outcomes == [("", ""), ("", "")]
    assert counter.read_text() == "200"


# --- processes ----------------------------------------------------------------------


def test_another_process_keeps_it_until_it_lets_go(path: str) -> None:
    with holder(path) as process:
        with pytest.raises(CredentialLockTimeout) as caught:
            with locked(path, 0.05):
                raise AssertionError("two holders")
        assert path in str(caught.value) and "0.05 s" in str(caught.value)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        # It lives on, with the file closed.
        assert is_free(path)


def test_a_killed_process_frees_it(path: str) -> None:
    with holder(path) as process:
        process.kill()
        process.wait(10)
        with locked(path, 5):
            assert not is_free(path)


def test_a_stopped_process_does_not_hang_others(path: str) -> None:
    with holder(path) as process:
        process.send_signal(signal.SIGSTOP)
        assert not bounded(lambda: is_free(path))


def test_ctrl_c_ends_the_wait(path: str) -> None:
    script = """
        import sys, time
        from mcpsync.auth._lock import locked
        sleep = time.sleep
        def say_and_sleep(seconds):
            print("waiting", flush=True)
            sleep(600)
        time.sleep = say_and_sleep
        try:
            with locked(sys.argv[1], 600):
                print("entered")
        except KeyboardInterrupt:
            print("interrupted")
    """
    with locked(path, 0):
        process = start_script(script, path)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=30)
    assert (said, complained) == ("interrupted\n", "")


# --- fork ---------------------------------------------------------------------------


def test_a_forked_child_neither_holds_nor_frees_it(path: str) -> None:
    script = """
        import os, sys
        from mcpsync.auth._lock import locked
        from mcpsync.exceptions import CredentialLockTimeout
        path = sys.argv[1]

        def is_free():
            try:
                with locked(path, 0):
                    return True
            except CredentialLockTimeout:
                return False

        def open_locks():
            names = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
            return [n for n in names if os.path.exists(n) and os.readlink(n) == path]

        def in_child():
            os.close(say_so)
            assert open_locks() == []
            assert not is_free(), "the child has freed what the parent holds"
            os.write(tell, b"x")
            os.read(go_on, 1)

        go_on, say_so = os.pipe()
        ready, tell = os.pipe()
        with locked(path, 0):
            child = os.fork()
            if not child:
                status = 1
                try:
                    in_child()
                    status = 0
                finally:
                    os._exit(status)
            os.close(tell)
            assert os.read(ready, 1) == b"x"
        assert is_free(), "the child keeps what the parent gave back"
        os.close(say_so)
        os.close(go_on)
        os.close(ready)
        assert os.waitpid(child, 0)[1] == 0
    """
    run_script(script, path)


def test_leaving_the_block_in_a_child_leaves_the_parents_lock(path: str) -> None:
    script = """
        import os, sys
        from mcpsync.auth._lock import locked
        from mcpsync.exceptions import CredentialLockTimeout
        path = sys.argv[1]
        with locked(path, 0):
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                try:
                    with locked(path, 0):
                        sys.exit("the child has freed it")
                except CredentialLockTimeout:
                    pass
        if not child:
            os._exit(0)
    """
    run_script(script, path)


def test_a_copy_that_nobody_has_closed_yet_does_not_keep_it(path: str) -> None:
    lock = _lock.FileLock(path)
    lock.acquire(0)
    assert lock._opened is not None
    # What a child has in the moment between the fork and its first step.
    copy = os.dup(lock._opened.number)
    try:
        assert not is_free(path)
        lock.release()
        assert is_free(path)
    finally:
        os.close(copy)


# --- the file -----------------------------------------------------------------------


def test_the_file_stays_and_is_private(path: str) -> None:
    before = os.umask(0)
    try:
        with locked(path, 0):
            first = os.stat(path)
    finally:
        os.umask(before)
    with locked(path, 0):
        second = os.stat(path)
    assert os.path.samestat(first, second)
    assert os.path.samestat(second, os.stat(path))
    assert stat.S_IMODE(first.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, taken = _lock._take, []

    def take_after_removal(number: int) -> bool:
        if not taken:
            os.unlink(path)
        taken.append(number)
        return take(number)

    monkeypatch.setattr(_lock, "_take", take_after_removal)
    with locked(path, 5):
        monkeypatch.undo()
        assert len(taken) == 2
        assert not is_free(path)


def make_link(path: str) -> None:
    victim = path + ".victim"
    Path(victim).write_text("")
    os.symlink(victim, path)


@pytest.mark.parametrize(
    "make, reason",
    [
        (make_link, "symbolic link"),
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "directory"),
    ],
)
def test_what_is_no_file_is_refused(path: str, make: Any, reason: str) -> None:
    os.makedirs(os.path.dirname(path))
    make(path)
    with pytest.raises(CredentialStoreError, match=reason) as caught:
        bounded(lambda: is_free(path))
    assert path in str(caught.value)


def test_a_file_of_another_user_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_free(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CredentialStoreError, match="another user"):
        is_free(path)


def test_a_file_system_without_locks_is_an_error(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int, what: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(CredentialStoreError, match="MCPSYNC_HOME") as caught:
        is_free(path)
    assert not isinstance(caught.value, CredentialLockTimeout)


# --- stores -------------------------------------------------------------------------


def test_a_store_locks_one_server_and_no_other(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "c.json")
    with store.lock(NAME, URL, 0):
        with store.lock("other", URL, 0), store.lock(NAME, URL + "/", 0):
            pass
        with pytest.raises(CredentialLockTimeout):
            with FileStore(tmp_path / "c.json").lock(NAME, URL, 0):
                raise AssertionError("two holders")


def test_locks_have_the_names_that_codex_gives_them(tmp_path: Path) -> None:
    store = FileStore(tmp_path / ".credentials.json")
    with store.lock("test-server", "https://example.test", 0):
        names = os.listdir(tmp_path / "mcp-oauth-locks")
    # The SHA-256 of "test-server|8c45d89ea13b3919".
    digest = "529b69d1bca4bcf58af7118ea58abdddc91713ece24ee64edeaf7de2bb9d6750"
    assert names == [digest + ".lock"]


def test_a_lock_in_memory_excludes_threads(canary: str) -> None:
    store = MemoryStore()

    def is_free() -> bool:
        try:
            with store.lock(NAME, URL, 0.01):
                return True
        except CredentialLockTimeout as error:
            assert NAME in str(error)
            return False

    with store.lock(NAME, URL, 0):
        assert not bounded(is_free)
        with store.lock(NAME, URL + "/", 0):
            pass
    assert bounded(is_free)


def test_a_lock_in_memory_is_free_in_a_forked_child() -> None:
    run_script("""
        import os, threading
        from mcpsync.auth.stores import MemoryStore
        store = MemoryStore()
        held, done = threading.Event(), threading.Event()
        def hold():
            with store.lock("a", "b"):
                held.set()
                done.wait(30)
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(30)
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if not child:
            with store.lock("a", "b", 0):
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        done.set()
        thread.join()
    """)
