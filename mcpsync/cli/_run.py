"""Running one subcommand: connect, do it, report what went wrong."""

from __future__ import annotations

from typing import Optional

from .._connect import connect
from .._questions import OnElicitation
from .._text import clean
from ..client import Client
from ..console import ask
from ..exceptions import MCPError
from ..types import ElicitRequest, ElicitResult
from ._demo import run_demo
from ._errors import code_of, exit_code, hint_for
from ._output import Output
from ._parser import LOGIN_VERBS, Settings, UsageError
from ._target import Server, server_from
from ._verbs import VERBS

__all__ = ["report", "run"]


def run(settings: Settings, output: Output) -> int:
    """Carry out what the command line asked for and return the exit code.

    Raises:
        UsageError: the arguments do not fit the subcommand, or the tool.
    """
    try:
        if settings.verb == "demo":
            return run_demo(settings, output)
        if settings.verb in LOGIN_VERBS:
            # Loaded for these alone.
            from ._login import run_login_verb

            return run_login_verb(settings, output)
        server, words = server_from(settings)
        output.server, output.secrets = server.label, server.secrets
        # Reads all the words first: nothing is started for a command that is wrong.
        job = VERBS[settings.verb](words, settings)
        for warning in server.warnings:
            output.warn(warning)
        with _connected(server, output) as client:
            return job(client, output)
    except UsageError:
        raise
    except Exception as error:
        return report(error, output, settings)


def report(error: Exception, output: Output, settings: Settings) -> int:
    """Report what ended a command and return the exit code."""
    if not isinstance(error, MCPError):
        kind = "" if isinstance(error, OSError) else type(error).__name__ + ": "
        output.error(code_of(error), kind + clean(error))
    else:
        output.server = error.server or output.server
        output.error(code_of(error), str(error))
    url = settings.words[0] if settings.words and not settings.command else None
    hint = hint_for(error, settings.verb, url)
    if hint is not None:
        output.talk("mcpsync: " + hint)
    output.traceback(error)
    return exit_code(error)


def _connected(server: Server, output: Output) -> Client:
    target = server.target
    return connect(
        target if isinstance(target, str) else list(target),
        on_elicitation=_asker(output),
        **server.options,
    )


def _asker(output: Output) -> Optional[OnElicitation]:
    """Return a handler for the server's questions, if there is somebody to ask."""
    if not output.is_conversation:
        return None

    def handler(request: ElicitRequest) -> ElicitResult:
        return ask(request, read=output.ask_line, write=output.say)

    return handler
