"""A line of a terminal that is drawn over and over, and the progress bar on it."""

from __future__ import annotations

import os
import unicodedata
from typing import Optional, TextIO

from .._text import clean

__all__ = ["StatusLine", "bar_line", "columns_of", "fitted", "is_terminal"]

_BAR = 24
_LONGEST = 120

_ERASE = "\r\x1b[K"


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person looks at the stream."""
    try:
        return stream.isatty()
    except ValueError:
        # It is closed.
        return False


def columns_of(stream: TextIO) -> Optional[int]:
    """Return how wide lines may be; None where nothing says so."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and 0 < int(given) < 10_000:
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError, AttributeError):
        return None


def fitted(text: str, columns: int) -> str:
    """Return as much of a line as fits, with an ellipsis for the rest."""
    taken = end = 0
    for index, character in enumerate(text):
        taken += _width(character)
        if taken > columns:
            return text[:end] + "…"
        if taken < columns:
            # There is room for an ellipsis behind this character.
            end = index + 1
    return text


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def bar_line(
    progress: float,
    total: Optional[float],
    message: Optional[str],
    columns: Optional[int] = None,
) -> str:
    """Return progress as one line that fits into the columns.

    Without a total there is nothing to fill: the number stands alone.
    """
    width = min(columns or 80, _LONGEST) - 1
    if total is not None and total > 0:
        share = max(0.0, min(1.0, progress / total))
        full = int(share * _BAR)
        line = "[%s%s] %3d%% %s of %s" % (
            "#" * full,
            "-" * (_BAR - full),
            int(share * 100),
            _number(progress),
            _number(total),
        )
    else:
        line = "[%s] %s" % ("?" * _BAR, _number(progress))
    if message:
        line += "  " + clean(message, width)
    return fitted(line, width)


def _number(value: float) -> str:
    return "%.15g" % value


class StatusLine:
    """The last line of a terminal; nothing where there is none."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = False

    @property
    def possible(self) -> bool:
        return is_terminal(self._stream) and os.environ.get("TERM") != "dumb"

    def draw(self, text: str) -> None:
        """Write over what stands there."""
        if self.possible:
            self._drawn = True
            self._write(_ERASE + text)

    def progress(
        self, progress: float, total: Optional[float], message: Optional[str]
    ) -> None:
        """Draw a progress bar."""
        self.draw(bar_line(progress, total, message, columns_of(self._stream)))

    def clear(self) -> None:
        """Take it away, so that something else can have its line."""
        if self._drawn:
            self._drawn = False
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
