"""The platform's keyring, asked in bounded time.

A keyring may block for two minutes, or until somebody answers a prompt that nobody
sees; its backends raise whatever they like. So each operation runs on a thread of its
own, one at a time, and whoever asked waits only so long. A keyring that let the time
pass, or is locked, is not asked again by this process.
"""

from __future__ import annotations

import collections
import logging
import re
import sys
import threading
import time
from typing import (
    Any,
    Callable,
    Deque,
    Generic,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
)

from .._lifecycle import Enrolled, enrol
from .._text import clean
from ..exceptions import CredentialStoreError
from ._chunks import Chunks
from ._document import Damaged

__all__ = [
    "KeyringUnavailable",
    "Opened",
    "Refused",
    "Vault",
    "Worker",
    "process_worker",
]

_log = logging.getLogger("mcpsync")

T = TypeVar("T")

#: The longest wait that Ctrl-C cannot end, where it cannot end any, in seconds.
_SLICE = 0.5 if sys.platform == "win32" else 3600.0

#: Texts in a value that must not come back in a backend's words.
_TEXTS = re.compile(r'"([^"]{6,})"')


class KeyringUnavailable(CredentialStoreError):
    """The keyring did not do what it was asked for.

    Attributes:
        uncertain: whether it may still do it, unheard.
    """

    uncertain = False


class Refused(Exception):
    """There is no backend that may be used; the message says why."""


class Opened(NamedTuple):
    """A keyring backend that may be used.

    Attributes:
        backend: has `get_password`, `set_password` and `delete_password`.
        name: for messages.
        absent: what it raises when there is nothing to delete.
        unusable: what it raises when there is no point in asking again.
        foreseen: all that it raises on purpose, those included.
    """

    backend: Any
    name: str
    absent: Tuple[Type[Exception], ...] = ()
    unusable: Tuple[Type[Exception], ...] = ()
    foreseen: Tuple[Type[Exception], ...] = ()

    @property
    def final(self) -> Tuple[Type[Exception], ...]:
        """What it makes no sense to try again after."""
        return (KeyringUnavailable, *self.foreseen)


class _Job(Generic[T]):
    """One operation, and what became of it."""

    def __init__(self, operation: Callable[[], T], limit: float) -> None:
        self.operation = operation
        self.limit = limit
        self.due: Optional[float] = None
        self.over = False
        self.results: List[T] = []
        self.failure: Optional[BaseException] = None

    def run(self) -> None:
        try:
            self.results.append(self.operation())
        except BaseException as error:
            self.failure = error

    def outcome(self) -> T:
        failure, self.failure = self.failure, None
        if failure is None:
            return self.results[0]
        try:
            raise failure
        finally:
            # The traceback refers to this frame.
            del failure


class Worker(Enrolled):
    """Runs operations one after the other on a thread that lives while there are any.

    For any number of threads. The child of a fork has a worker of its own, but what
    was found to hang in the parent is not tried again.
    """

    def __init__(self) -> None:
        self._begin()
        self._off: Optional[str] = None
        enrol(self)

    def _begin(self) -> None:
        # Guards the queue, the thread and the states of jobs.
        # Never while held: an operation, or anything else that can block.
        # Taken by everybody who asks and by the worker's thread.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: "Deque[_Job[Any]]" = collections.deque()
        self._running: "Optional[_Job[Any]]" = None
        self._thread: Optional[threading.Thread] = None

    def after_fork_in_child(self) -> None:
        """Forget the thread and the jobs of the parent."""
        self._begin()

    @property
    def off(self) -> Optional[str]:
        """Why nothing is run any more; ``None`` as long as it is."""
        return self._off

    def switch_off(self, reason: str) -> None:
        """Run nothing any more; whoever waits, waits no longer."""
        with self._changed:
            if self._off is not None:
                return
            self._off = reason
            self._queue.clear()
            self._changed.notify_all()
        _log.warning("%s; this process does not use it any more", _unavailable(reason))

    def run(self, operation: Callable[[], T], limit: float) -> T:
        """Return what `operation` returns, or raise what it raises.

        Args:
            limit: seconds it may take once it has begun. An operation that takes longer
                goes on, unheard, and nothing is run any more.

        Raises:
            KeyringUnavailable: it took too long, or the worker is switched off.
        """
        job = _Job(operation, limit)
        try:
            with self._changed:
                self._check()
                self._queue.append(job)
                if self._thread is None:
                    self._start()
            self._wait(job)
        finally:
            self._withdraw(job)
        return job.outcome()

    def _check(self) -> None:
        if self._off is not None:
            raise _unavailable(self._off)

    def _start(self) -> None:
        """Start the thread. Requires _lock."""
        thread = threading.Thread(
            target=self._work, name="mcpsync-keyring", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise _unavailable("no thread can be started: %s" % error) from error
        self._thread = thread

    def _wait(self, job: "_Job[T]") -> None:
        while not self._await_change(job):
            # The one that takes too long may be another's, who has gone.
            self.switch_off("it did not answer within %g s" % job.limit)

    def _await_change(self, job: "_Job[T]") -> bool:
        """Wait until the job is over; ``False`` when the running one is overdue."""
        with self._changed:
            while not job.over:
                if job.due is None:
                    self._check()
                running = self._running
                seconds = _SLICE
                if running is not None and running.due is not None:
                    seconds = running.due - time.monotonic()
                if seconds <= 0:
                    return self._overdue(job)
                self._changed.wait(min(seconds, _SLICE))
        return True

    def _overdue(self, job: "_Job[T]") -> bool:
        """Give up once the worker is off; ``False`` until then. Requires _lock."""
        if self._off is None:
            return False
        failure = _unavailable(self._off)
        failure.uncertain = True
        raise failure

    def _withdraw(self, job: "_Job[T]") -> None:
        """Take back what has not begun: nobody waits for it any more."""
        with self._changed:
            if not job.over and job in self._queue:
                self._queue.remove(job)

    def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                return
            job.run()
            with self._changed:
                job.over = True
                self._running = None
                self._changed.notify_all()
            del job

    def _next(self) -> "Optional[_Job[Any]]":
        with self._changed:
            if not self._queue:
                self._thread = None
                return None
            job = self._running = self._queue.popleft()
            job.due = time.monotonic() + job.limit
            self._changed.notify_all()
            return job


#: Serves all that this process asks of the platform's keyring.
process_worker = Worker()


class _Drawer:
    """The entries of one service, with errors of ours. For the worker's thread."""

    def __init__(self, opened: Opened, service: str, worker: Worker) -> None:
        self._opened = opened
        self._service = service
        self._worker = worker

    def get(self, account: str) -> Optional[str]:
        found: Optional[str] = self._ask(self._opened.backend.get_password, account)
        return found

    def set(self, account: str, value: str) -> None:
        self._ask(self._opened.backend.set_password, account, value)

    def delete(self, account: str) -> bool:
        try:
            self._ask(self._opened.backend.delete_password, account)
        except self._opened.absent:
            # Some backends say the same when they could not.
            if self.get(account) is None:
                return False
        else:
            return True
        raise _unavailable("%s did not delete an entry" % self._opened.name)

    def _ask(self, function: Callable[..., Any], *arguments: str) -> Any:
        try:
            return self._attempt(function, arguments)
        except self._opened.final:
            raise
        except Exception as error:
            # What nobody foresaw was a passing thing, now and then.
            _log.debug("asking the keyring again after %s", type(error).__name__)
        return self._attempt(function, arguments)

    def _attempt(self, function: Callable[..., Any], arguments: Tuple[str, ...]) -> Any:
        if self._worker.off is not None:
            # Nobody waits for the rest of this operation.
            raise _unavailable(self._worker.off)
        return function(self._service, *arguments)


class Vault:
    """Texts in the platform's keyring, by account.

    For any number of threads; those who write the same account take turns by a lock
    that is not this object's business.

    Args:
        open_backend: finds the backend, once, on the worker's thread; raises
            :class:`KeyringUnavailable` when there is none that may be used.
        service: the name that all entries have in common.
        worker: does what is asked for.
        seconds: that one operation may take.
        chunk_above: characters above which a value is cut; ``None`` cuts none.
    """

    def __init__(
        self,
        open_backend: Callable[[], Opened],
        service: str,
        worker: Worker,
        seconds: float,
        chunk_above: Optional[int],
    ) -> None:
        self.name = "keyring"
        self._open_backend = open_backend
        self._service = service
        self._worker = worker
        self._seconds = seconds
        self._chunk_above = chunk_above
        self._opened: Optional[Tuple[Opened, Chunks]] = None
        self._refusal: Optional[str] = None
        self._announced = False

    def open(self) -> None:
        """Find the backend.

        Raises:
            KeyringUnavailable: there is none that may be used.
        """
        self._run((), lambda chunks: None)

    def get(self, account: str) -> Optional[str]:
        """Return the text of an account; ``None`` if there is none.

        Raises:
            KeyringUnavailable: the keyring cannot be used.
            Damaged: what it keeps is not what was written.
        """
        return self._run((), lambda chunks: chunks.get(account))

    def update(
        self, account: str, change: Callable[[Optional[str]], Optional[str]]
    ) -> None:
        """Replace the text of an account.

        Args:
            change: returns the new text, given the old one (``None``: there is none, or
                it is damaged); or ``None``, and nothing is written.

        Raises:
            KeyringUnavailable: the keyring cannot be used, or did not keep the text.
        """
        secrets: List[str] = []

        def operation(chunks: Chunks) -> None:
            try:
                before = chunks.get(account)
            except Damaged:
                before = None
            after = change(before)
            if after is not None:
                secrets.extend(_TEXTS.findall(after))
                self._set(chunks, account, after)

        self._run(secrets, operation)

    def delete(self, account: str) -> bool:
        """Remove an account; ``False`` if there was none.

        Raises:
            KeyringUnavailable: the keyring cannot be used.
        """
        return self._run((), lambda chunks: chunks.delete(account))

    def _run(self, secrets: Sequence[str], operation: Callable[[Chunks], T]) -> T:
        try:
            return self._worker.run(
                lambda: self._guarded(secrets, operation), self._seconds
            )
        except KeyringUnavailable as error:
            self._announce(error)
            raise

    def _guarded(self, secrets: Sequence[str], operation: Callable[[Chunks], T]) -> T:
        """Do what was asked for, with errors of ours. On the worker's thread."""
        opened, chunks = self._open()
        try:
            return operation(chunks)
        except (KeyringUnavailable, Damaged):
            raise
        except opened.unusable as error:
            reason = "%s: %s" % (self.name, _words(error, secrets))
            self._worker.switch_off(reason)
            raise _unavailable(reason) from error
        except Exception as error:
            reason = "%s: %s" % (self.name, _words(error, secrets))
            raise _unavailable(reason) from error

    def _open(self) -> Tuple[Opened, Chunks]:
        if self._refusal is not None:
            raise _unavailable(self._refusal)
        if self._opened is None:
            opened = self._find()
            drawer = _Drawer(opened, self._service, self._worker)
            self._opened = opened, Chunks(drawer, self._chunk_above)
            self.name = opened.name
        return self._opened

    def _find(self) -> Opened:
        try:
            return self._open_backend()
        except Refused as refused:
            reason = str(refused)
        except Exception as error:
            reason = _words(error, ())
        self._refusal = reason
        raise _unavailable(reason)

    def _set(self, chunks: Chunks, account: str, value: str) -> None:
        try:
            chunks.set(account, value)
        except Damaged as damage:
            self._refusal = "%s: %s" % (self.name, damage)
            raise _unavailable(self._refusal) from damage

    def _announce(self, error: KeyringUnavailable) -> None:
        """Say once why the keyring is not used; of the worker's end that one speaks."""
        if not self._announced and self._worker.off is None:
            _log.warning("%s", error)
        self._announced = True


def _unavailable(reason: str) -> KeyringUnavailable:
    return KeyringUnavailable(
        "the keyring cannot be used: %s (repair or unlock it, or keep credentials in a "
        "file)" % reason
    )


def _words(error: BaseException, secrets: Sequence[str]) -> str:
    """Return what a backend says, without what it was given."""
    text = clean(error, limit=200, secrets=secrets)
    name = type(error).__name__
    return "%s: %s" % (name, text) if text else name
