"""Locks that exclude other processes, other threads, and nobody for ever.

The lock is `flock` on a file that exists for nothing else: it ends with the process
that holds it, however that ends, and two descriptors of one process exclude each other
as well, which POSIX record locks do not. The file is never removed: a new one under
the same name would be another lock.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from contextlib import contextmanager, suppress
from typing import Iterator, Optional

from .._text import clean
from ..exceptions import CredentialLockTimeout, CredentialStoreError
from ._file import Descriptor, private_directory, reason_of

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["FileLock", "locked"]

#: Pauses between two looks at a lock that somebody holds, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05

_HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}


@contextmanager
def locked(path: str, timeout: float) -> Iterator[None]:
    """Hold the lock of a file for as long as the block lasts.

    Not reentrant. A process that forks inside the block still holds it; the child does
    not. Ctrl-C ends the wait.

    Args:
        path: of the lock file; it and its directory are made if need be.
        timeout: seconds to wait; 0 asks once.

    Raises:
        CredentialLockTimeout: somebody else held it all that time.
        CredentialStoreError: the file cannot be locked here.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout)
        yield
    finally:
        lock.release()


class FileLock:
    """One holder of a lock. For one thread; others make their own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened: Optional[Descriptor] = None
        self._taken = False

    def acquire(self, timeout: float) -> None:
        """Wait for the lock; see :func:`locked`."""
        end = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        try:
            while not self._try():
                remaining = end - time.monotonic()
                if remaining <= 0:
                    raise self._timed_out(timeout)
                time.sleep(min(pause, remaining))
                pause = min(2 * pause, _LONGEST_PAUSE)
        except OSError as error:
            self.release()
            raise self._cannot(reason_of(error)) from error

    def _try(self) -> bool:
        """Take the lock if nobody has it."""
        flags = os.O_RDWR | os.O_CREAT
        try:
            opened = self._opened = Descriptor(self._path, flags)
        except FileNotFoundError:
            private_directory(os.path.dirname(self._path), own=True)
            opened = self._opened = Descriptor(self._path, flags)
        self._check(opened)
        self._taken = _take(opened.number)
        if self._taken and self._is_current(opened):
            return True
        self.release()
        return False

    def _check(self, opened: Descriptor) -> None:
        status = os.fstat(opened.number)
        if not stat.S_ISREG(status.st_mode):
            self.release()
            raise self._cannot("it is not a regular file; move it away")
        if sys.platform != "win32" and status.st_uid != os.geteuid():
            self.release()
            raise self._cannot("it belongs to another user; move it away")

    def _is_current(self, opened: Descriptor) -> bool:
        """Tell whether the name still means this file: somebody may have removed it."""
        try:
            return os.path.samestat(os.fstat(opened.number), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others have it. Idempotent; nothing in a forked child."""
        opened, self._opened = self._opened, None
        taken, self._taken = self._taken, False
        if opened is None:
            return
        if taken:
            # A child that is being forked has not closed its copy yet; closing ours
            # alone would leave the lock to that. In the child there is nothing to give.
            with suppress(OSError):
                _give_back(opened.number)
        opened.close()

    def _timed_out(self, timeout: float) -> CredentialLockTimeout:
        return CredentialLockTimeout(
            "another process or thread has held the credentials for %g s; wait for it, "
            "or end the process that has %s open" % (timeout, clean(self._path))
        )

    def _cannot(self, reason: str) -> CredentialStoreError:
        return CredentialStoreError(
            "cannot lock %s: %s; without a lock two processes would spend one refresh "
            "token (MCPSYNC_HOME chooses the directory)" % (clean(self._path), reason)
        )


def _take(number: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(number, 0, os.SEEK_SET)
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _give_back(number: int) -> None:
    if sys.platform == "win32":
        os.lseek(number, 0, os.SEEK_SET)
        msvcrt.locking(number, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(number, fcntl.LOCK_UN)
