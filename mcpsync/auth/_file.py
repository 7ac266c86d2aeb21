"""Private files: readable by one user, replaced as a whole, not trusted when read.

A credentials file is a target. So it is never followed through a link, never taken from
another user, never readable by others for an instant, and never half written: a new
one is written beside it, brought to the disk, and put in its place in one step.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from typing import Iterator, Optional

from .._lifecycle import Enrolled, enrol, no_fork
from .._text import clean
from ..exceptions import CredentialStoreError

__all__ = [
    "Descriptor",
    "PrivateFile",
    "SIZE_LIMIT",
    "private_directory",
    "reason_of",
]

_log = logging.getLogger("mcpsync")

#: Bytes that a private file holds at most.
SIZE_LIMIT = 4 * 1000 * 1000

#: Seconds after which a file that somebody began to write is given up.
_ABANDONED = 3600.0

#: Seconds that Windows may refuse to replace a file which somebody is reading.
_REPLACE_PATIENCE = 1.0

#: Links are not followed, and a FIFO does not make anybody wait. Where a platform
#: does not know a flag, it has nothing to offer in its place.
_SAFELY = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)

_IS_A_LINK = {errno.ELOOP, getattr(errno, "EMLINK", 0), getattr(errno, "EFTYPE", 0)}


class Descriptor(Enrolled):
    """An open file of ours; a context manager. A forked child closes its copy."""

    def __init__(self, path: str, flags: int, mode: int = 0o600) -> None:
        self._number: Optional[int] = None
        enrol(self)
        with no_fork:
            self._number = os.open(path, flags | _SAFELY, mode)

    @property
    def number(self) -> int:
        """The descriptor; an error once it is closed, or in a forked child."""
        if self._number is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._number

    def close(self) -> None:
        """Close it. Idempotent."""
        with no_fork:
            self._close()

    def _close(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            os.close(number)

    def after_fork_in_child(self) -> None:
        """Close this process's copy: locks of the parent must not live on in it."""
        self._close()

    def __enter__(self) -> "Descriptor":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        # An interrupt may come between opening and the first chance to close.
        self._close()


class PrivateFile:
    """A small file that belongs to this user alone.

    Threads and processes may read at any time; those who write take turns by a lock
    that is not this object's business.

    Args:
        path: absolute.
        what: the words for it in messages.
        own_directory: whether the directory exists for our files alone, and is made
            private as a whole.
    """

    def __init__(self, path: str, what: str, own_directory: bool) -> None:
        self.path = path
        self._what = what
        self._own_directory = own_directory

    def failure(self, doing: str, reason: str) -> CredentialStoreError:
        """Return the error that says what could not be done to it, and why."""
        name = clean(self.path)
        return CredentialStoreError(
            "cannot %s the %s %s: %s" % (doing, self._what, name, reason)
        )

    def read(self) -> Optional[bytes]:
        """Return what is in it; ``None`` if there is no such file.

        Raises:
            CredentialStoreError: it is not a private file of this user, or too large.
        """
        try:
            with Descriptor(self.path, os.O_RDONLY) as opened:
                self._check(opened)
                return self._read(opened)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.failure("read", reason_of(error)) from error

    def _check(self, opened: Descriptor) -> None:
        status = os.fstat(opened.number)
        objection = _objection(self.path, status)
        if objection is not None:
            raise self.failure("read", objection)
        if sys.platform != "win32" and status.st_mode & 0o077:
            os.fchmod(opened.number, 0o600)
            _log.warning(
                "the %s %s was open to other users (mode %04o) and is private now; "
                "they may have read it",
                self._what,
                clean(self.path),
                stat.S_IMODE(status.st_mode),
            )

    def _read(self, opened: Descriptor) -> bytes:
        data = bytearray()
        while len(data) <= SIZE_LIMIT:
            piece = os.read(opened.number, SIZE_LIMIT + 1 - len(data))
            if not piece:
                return bytes(data)
            data += piece
        raise self.failure(
            "read", "it is larger than %d bytes; move it away" % SIZE_LIMIT
        )

    def write(self, data: bytes) -> None:
        """Put `data` in its place; whatever fails leaves the old contents.

        Raises:
            CredentialStoreError: it could not be written.
        """
        if len(data) > SIZE_LIMIT:
            raise self.failure("save", "it would be larger than %d bytes" % SIZE_LIMIT)
        directory = os.path.dirname(self.path)
        try:
            private_directory(directory, self._own_directory)
            self._remove_leftovers(directory)
            self._replace(data)
            _sync_directory(directory)
        except OSError as error:
            raise self.failure("save", reason_of(error)) from error

    def _replace(self, data: bytes) -> None:
        temporary = "%s.%s.tmp" % (self.path, os.urandom(8).hex())
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with Descriptor(temporary, flags) as opened:
                _write_all(opened.number, data)
                os.fsync(opened.number)
            _move(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _remove_leftovers(self, directory: str) -> None:
        """Remove what processes that were killed while they wrote have left."""
        beginning = os.path.basename(self.path) + "."
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(beginning) and entry.name.endswith(".tmp"):
                    with contextlib.suppress(OSError):
                        written = entry.stat(follow_symlinks=False).st_mtime
                        if time.time() - written > _ABANDONED:
                            os.unlink(entry.path)

    def remove(self) -> None:
        """Remove it, if it is there."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.failure("remove", reason_of(error)) from error
        _sync_directory(os.path.dirname(self.path))

    def keep_aside(self, data: bytes) -> str:
        """Keep `data`, which was read from it, under another name, which is returned.

        Nothing is overwritten, and the file stays until a good one takes its place.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        for aside in _names("%s.corrupt-%s" % (self.path, stamp)):
            try:
                with Descriptor(aside, flags) as opened:
                    _write_all(opened.number, data)
                    os.fsync(opened.number)
            except FileExistsError:
                continue
            except OSError as error:
                raise self.failure("keep aside", reason_of(error)) from error
            break
        return aside


def private_directory(path: str, own: bool) -> None:
    """Make a directory for private files, or check the one that is there.

    Args:
        path: of the directory. One that is made is this user's alone.
        own: whether it is for our files alone; then it is closed to others. Of any
            other directory they lose only the right to replace files in it.

    Raises:
        CredentialStoreError: others may replace files in it.
        OSError: it cannot be made.
    """
    _make(path)
    if sys.platform != "win32":
        _close_to_others(path, own)


def _make(path: str) -> None:
    """Make a directory, and those above it that are missing."""
    with contextlib.suppress(FileExistsError):
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            _make(os.path.dirname(path))
            os.mkdir(path, 0o700)


def _close_to_others(path: str, own: bool) -> None:
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    mode = stat.S_IMODE(status.st_mode)
    # In a sticky directory, such as /tmp, nobody can move another one's files.
    writable = bool(mode & 0o022) and not mode & stat.S_ISVTX
    if status.st_uid != os.geteuid():
        if status.st_uid != 0 or writable:
            raise CredentialStoreError(
                "the directory %s belongs to another user: credentials kept in it "
                "would not be safe; choose another one" % clean(path)
            )
        return
    excess = mode & (0o077 if own else 0o022 if writable else 0)
    if excess:
        os.chmod(path, mode & ~excess)
    if excess & 0o022:
        _log.warning(
            "other users could replace files in the directory %s (mode %04o); they no "
            "longer can",
            clean(path),
            mode,
        )


def _objection(path: str, status: os.stat_result) -> Optional[str]:
    """Return why an opened file is not to be trusted."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file; move it away"
    if sys.platform == "win32":
        is_link = os.path.islink(path)
        return "it is a symbolic link; move it away" if is_link else None
    if status.st_uid != os.geteuid():
        return "it belongs to another user (number %d); move it away" % status.st_uid
    # None at all: somebody has just replaced it.
    if status.st_nlink > 1:
        return "it has a second name (a hard link); put a copy in its place"
    return None


def reason_of(error: OSError) -> str:
    """Return what went wrong with a file, in words that tell what to do."""
    if error.errno in _IS_A_LINK:
        return "it is a symbolic link; put a regular file in its place"
    if error.errno == errno.ENXIO:
        return "it is not a regular file; move it away"
    return error.strerror or type(error).__name__


def _write_all(number: int, data: bytes) -> None:
    if sys.platform != "win32":
        # A strange umask may have taken even this user's rights.
        os.fchmod(number, 0o600)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]


def _move(source: str, target: str) -> None:
    end = time.monotonic() + _REPLACE_PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            # Windows, while another process has it open.
            if sys.platform != "win32" or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _sync_directory(path: str) -> None:
    """Bring a changed name to the disk, where the file system can do that."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        flags = os.O_RDONLY | os.O_DIRECTORY
        with Descriptor(os.path.realpath(path), flags) as opened:
            os.fsync(opened.number)


def _names(first: str) -> Iterator[str]:
    """Yield names for a file until one is free."""
    yield first
    number = 1
    while True:
        number += 1
        yield "%s-%d" % (first, number)
