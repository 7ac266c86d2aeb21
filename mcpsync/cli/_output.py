"""What goes where: data to standard output, talk to standard error."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import traceback
from typing import Any, Callable, Optional, TextIO, Tuple

from .._text import clean, mask
from ._parser import Settings, UsageError
from ._progress import StatusLine, columns_of, is_terminal

__all__ = ["Output"]

JSON = Any
OnProgress = Callable[[float, Optional[float], Optional[str]], None]

_BOLD, _DIM, _RED, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"

#: Log records below the level are not shown; the key is the verbosity.
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}

#: Control, formatting and lone surrogate characters, which JSON can write as escapes.
_UNSAFE_IN_JSON = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]"
)


class Output:
    """Standard output and standard error of one command, or other streams for them.

    Used by the thread of the command; log records may come from any.

    Attributes:
        json: whether everything is JSON.
        names: whether only names are wanted.
        server: how the server is called in errors, once it is known.
        secrets: what no message may show.
    """

    def __init__(
        self,
        json_mode: bool = False,
        out: Optional[TextIO] = None,
        err: Optional[TextIO] = None,
    ) -> None:
        self.json = json_mode
        self.names = False
        self.server: Optional[str] = None
        self.secrets: Tuple[str, ...] = ()
        # A process may have been started without them.
        self._out: TextIO = out or sys.stdout or io.StringIO()
        self._err: TextIO = err or sys.stderr or io.StringIO()
        self._color = False
        self._verbosity = 0
        self._verb = ""
        self._lines = (StatusLine(self._out), StatusLine(self._err))
        self._handler: Optional[_Handler] = None

    def configure(self, settings: Settings) -> None:
        """Obey the options about output, and show the log from here on."""
        self.json = settings.output == "json"
        self.names = settings.output == "name"
        self._color = settings.color and os.environ.get("TERM") != "dumb"
        self._verbosity = settings.verbosity
        self._verb = settings.verb + " "
        level = _LEVELS.get(settings.verbosity, logging.DEBUG)
        if self.json and settings.verbosity < 1:
            # Standard error holds one line of JSON at most.
            level = logging.CRITICAL + 1
        self._handler = _Handler(self, level)
        self._handler.attach()

    def close(self) -> None:
        """Write what is left to write. Never raises."""
        if self._handler is not None:
            self._handler.detach()
        for stream in (self._out, self._err):
            try:
                self._clear()
                self._write(stream, "")
            except OSError:
                # The disk is full, which has been reported.
                _detach(stream)

    # --- facts --------------------------------------------------------------

    @property
    def out_is_terminal(self) -> bool:
        return is_terminal(self._out)

    @property
    def is_conversation(self) -> bool:
        """Whether a person can read questions and type answers."""
        stdin: Optional[TextIO] = sys.stdin
        return stdin is not None and is_terminal(stdin) and is_terminal(self._err)

    @property
    def verbose(self) -> bool:
        return self._verbosity > 0

    @property
    def columns(self) -> Optional[int]:
        """How wide a table may be; None: as wide as it gets."""
        return columns_of(self._out)

    def bold(self, text: str) -> str:
        return self._styled(text, _BOLD, self._out)

    def dim(self, text: str) -> str:
        return self._styled(text, _DIM, self._out)

    def _styled(self, text: str, style: str, stream: TextIO) -> str:
        if not text or not (self._color and is_terminal(stream)):
            return text
        return style + text + _PLAIN

    # --- data ---------------------------------------------------------------

    def result(self, value: JSON, text: str) -> None:
        """Write what the command is for: the value as JSON, or else the text."""
        if self.json:
            self.text(self.json_text({"result": value}))
        elif text:
            self.text(text)

    def text(self, text: str) -> None:
        """Write lines to standard output; they have to be safe for it."""
        self._clear()
        self._write(self._out, text if text.endswith("\n") else text + "\n")

    def status(self, text: str) -> None:
        """Write over the last line of a terminal, until something else is written."""
        self._lines[0].draw(text)

    def data(self, data: bytes) -> None:
        """Write bytes to standard output."""
        self._write(self._out, "")
        try:
            self._out.buffer.write(data)
            self._out.buffer.flush()
        except BrokenPipeError:
            _detach(self._out)

    def json_text(self, value: JSON, colored: bool = True) -> str:
        """Return JSON: one line, or indented and colored for a terminal."""
        terminal = self.out_is_terminal
        indent = 2 if terminal else None
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        text = _UNSAFE_IN_JSON.sub(_json_escape, text)
        if terminal and colored and self._color:
            return _highlighted(text)
        return text

    # --- talk ---------------------------------------------------------------

    def talk(self, text: str) -> None:
        """Say something to the person in front of it."""
        if self._verbosity >= 0 and (self._verbosity > 0 or not self.json):
            self.say(text)

    def warn(self, text: str) -> None:
        self.talk("mcpsync: warning: " + text)

    def say(self, text: str) -> None:
        """Write lines to standard error, whatever the options."""
        self._clear()
        self._write(self._err, mask(text, self.secrets) + "\n")

    def ask_line(self, prompt: str) -> str:
        """Return a line from standard input, like :func:`input`.

        The prompt goes to standard error: standard output may be a file.
        """
        self._clear()
        self._write(self._err, prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def progress(self) -> Optional[OnProgress]:
        """Return what draws a progress bar, if there is a terminal to draw it on."""
        line = self._lines[1]
        wanted = self._verbosity >= 0 and not self.json and line.possible
        return line.progress if wanted else None

    # --- errors -------------------------------------------------------------

    def error(self, code: str, message: str, text: Optional[str] = None) -> None:
        """Report what went wrong.

        Args:
            code: for programs.
            message: one line for anybody.
            text: for people, instead of the message.
        """
        message = mask(message, self.secrets)
        if self.json:
            error = {"code": code, "message": message, "server": self.server}
            line = json.dumps({"error": error})
            self._clear()
            self._write(self._err, line + "\n")
            return
        self.say(self._label() + (message if text is None else text))

    def _label(self) -> str:
        return self._styled("mcpsync: ", _RED, self._err)

    def usage_error(self, error: UsageError) -> int:
        """Report wrong usage and return the exit code."""
        if error.usage and not self.json:
            self.say(error.usage.rstrip())
        message = clean(error.message, 2000)
        more = "" if error.usage else "\n(see mcpsync %s--help)" % self._verb
        self.error("usage", message, message + more)
        return 2

    def interrupted(self) -> int:
        """Report Ctrl-C and return the exit code."""
        self.error("interrupted", "interrupted")
        return 130

    def traceback(self, error: BaseException) -> None:
        """Show where an exception came from, to those who want to know: ``-vv``."""
        if self._verbosity > 1:
            kind = type(error)
            lines = traceback.format_exception(kind, error, error.__traceback__)
            self.say("".join(lines).rstrip())

    # --- writing ------------------------------------------------------------

    def _clear(self) -> None:
        for line, stream in zip(self._lines, (self._out, self._err)):
            try:
                line.clear()
            except BrokenPipeError:
                _detach(stream)

    def _write(self, stream: TextIO, text: str) -> None:
        """Write and flush. Who reads may have gone: then nobody misses anything."""
        encoding = getattr(stream, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            stream.write(shown)
            stream.flush()
        except BrokenPipeError:
            _detach(stream)


def _detach(stream: TextIO) -> None:
    """Send what is still written to a closed pipe nowhere, also at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def _json_escape(match: "re.Match[str]") -> str:
    return "\\u%04x" % ord(match.group())


def _highlighted(text: str) -> str:
    """Return JSON in colors where rich is installed, else as it is."""
    try:
        import rich.console
        import rich.highlighter
        import rich.text
    except ImportError:
        return text
    console = rich.console.Console(color_system="standard", force_terminal=True)
    styled = rich.highlighter.JSONHighlighter()(rich.text.Text(text))
    with console.capture() as capture:
        console.print(styled, soft_wrap=True, end="")
    return capture.get()


class _Handler(logging.Handler):
    """Shows the log of the library on standard error."""

    def __init__(self, output: Output, level: int) -> None:
        super().__init__(level)
        self._output = output
        self._logger = logging.getLogger("mcpsync")
        self._before = self._logger.level

    def attach(self) -> None:
        self._logger.addHandler(self)
        if self.level < self._logger.getEffectiveLevel():
            self._logger.setLevel(self.level)

    def detach(self) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._before)

    def emit(self, record: logging.LogRecord) -> None:
        message = clean(record.getMessage(), 4000)
        name = record.name.partition("mcpsync.server.")[2]
        where = "server %s: " % clean(name, 60) if name else ""
        self._output.say(
            "mcpsync: %s: %s%s" % (record.levelname.lower(), where, message)
        )
        if record.exc_info and record.exc_info[1] is not None:
            self._output.traceback(record.exc_info[1])
