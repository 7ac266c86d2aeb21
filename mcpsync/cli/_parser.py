"""The parser of the command line, and what it makes of an argument list.

It is built by one function, so that other commands can have the same arguments:
:func:`add_commands` adds them to any parser. No destination is called ``args``, and
options may stand before and after the subcommand.
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Tuple

from .._version import __version__

__all__ = [
    "LOGIN_VERBS",
    "Settings",
    "UsageError",
    "add_commands",
    "build_parser",
    "settings_from",
    "split_command",
]

#: The subcommands that are about a login, and talk to no server with it.
LOGIN_VERBS = ("login", "logout")


class UsageError(Exception):
    """The arguments cannot be used; `usage` shows how they are meant to be."""

    def __init__(self, message: str, usage: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.usage = usage


@dataclass(frozen=True)
class Settings:
    """What the command line asked for.

    Attributes:
        verb: the subcommand.
        words: its positional arguments, the server included if it is a URL.
        command: what stood after ``--``; None when there was none.
        timeout, startup_timeout: seconds.
        env, headers, headers_from_env: as given, unread.
        output: ``"text"``, ``"json"`` or ``"name"``.
        verbosity: 0 as usual, more with ``-v``, less with ``-q``.
        own: the options of this subcommand alone.
    """

    verb: str
    words: Tuple[str, ...]
    command: Optional[Tuple[str, ...]]
    timeout: Optional[float]
    startup_timeout: Optional[float]
    protocol: str
    env: Tuple[str, ...]
    cwd: Optional[str]
    headers: Tuple[str, ...]
    headers_from_env: Tuple[str, ...]
    output: str
    color: bool
    verbosity: int
    own: Dict[str, Any]


def split_command(given: Sequence[str]) -> Tuple[List[str], Optional[Tuple[str, ...]]]:
    """Split an argument list at its first ``--``: the rest is a server's command."""
    words = list(given)
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


# --- parsers ----------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Raises its complaints, and takes no abbreviated options."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage())


class _CommandParser(_Parser):
    """The parser of one subcommand; options may stand between its words."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Collect the words behind an option, which argparse leaves over."""
        namespace, rest = super().parse_known_args(args, namespace)
        late = [word for word in rest if not word.startswith("-") or word == "-"]
        if late:
            namespace.words = list(namespace.words) + late
        return namespace, [word for word in rest if word not in late]


@dataclass(frozen=True)
class _Verb:
    """A subcommand as its help shows it.

    Attributes:
        words: its positional arguments, the server apart.
        server: whether it is about a server that the user names.
        commands: whether that server may be a command.
    """

    help: str
    words: str = ""
    text: str = ""
    server: bool = True
    commands: bool = True


_PAIRS = """
NAME=VALUE gives an argument as text%s.
NAME:=JSON gives it as JSON: count:=3 flags:='["a","b"]'."""

_VERBS: Dict[str, _Verb] = {
    "info": _Verb("what the server is: version, capabilities, instructions"),
    "tools": _Verb(
        "list the tools, or show one",
        "[TOOL]",
        "With TOOL, that one alone, with its description in full.",
    ),
    "call": _Verb(
        "call a tool",
        "TOOL [NAME=VALUE ...] [NAME:=JSON ...]",
        "The server comes first if it is a URL; a command stands after --, behind the\n"
        "tool and its arguments.\n"
        + _PAIRS
        % (
            ", and the tool's own schema says what\n"
            "becomes of it: a number, true or false, a list (also NAME=A NAME=B), an "
            "object"
        )
        + "\n\nexamples:\n"
        "  mcpsync call http://localhost:3001/mcp echo message=hello\n"
        "  mcpsync call echo message=hello -- npx -y "
        "@modelcontextprotocol/server-everything",
    ),
    "read": _Verb(
        "read a resource",
        "URI",
        "Bytes are never written to a terminal: -o FILE saves them, -o - pipes them.",
    ),
    "resources": _Verb("list the resources and the resource templates"),
    "prompts": _Verb("list the prompts"),
    "prompt": _Verb("show a prompt", "NAME [NAME=VALUE ...]"),
    "complete": _Verb(
        "complete an argument of a prompt or a resource template",
        "PROMPT|TEMPLATE ARGUMENT=BEGINNING [NAME=VALUE ...]",
        "What holds :// is a template. The first argument is the one to complete, the\n"
        "others are known already:\n\n"
        "  mcpsync complete http://localhost:3001/mcp greeting style=f",
    ),
    "ping": _Verb("ask the server for a sign of life"),
    "login": _Verb(
        "log in to a server, and keep the credentials",
        text="Opens a browser, and keeps what comes of it in the keyring, or in a\n"
        "private file where there is none. Other commands, and programs that connect\n"
        "to the same URL, use it from then on. A client secret is never an argument:\n"
        "it comes from a variable, or is asked for.\n"
        "\n"
        "examples:\n"
        "  mcpsync login https://example.com/mcp\n"
        "  mcpsync login https://example.com/mcp --no-browser\n"
        "  mcpsync login https://example.com/mcp --client-id my-client --ask-secret",
        commands=False,
    ),
    "logout": _Verb(
        "revoke the credentials of a server, and forget them",
        text="Where they cannot be revoked, they are forgotten all the same.",
        commands=False,
    ),
    "demo": _Verb(
        "see the client at work on a server that comes with it",
        text="Starts the bundled demo server over stdio and HTTP, and talks to it in\n"
        "both protocol eras. With --output json, shows what went over the wire.",
        server=False,
    ),
}

_EPILOG = """\
SERVER is a URL, or a command after --:

  mcpsync tools http://localhost:3001/mcp
  mcpsync tools -- npx -y @modelcontextprotocol/server-everything
  mcpsync call http://localhost:3001/mcp echo message=hello
  mcpsync call echo message=hello -- npx -y @modelcontextprotocol/server-everything

exit codes: 0 ok, 1 unexpected, 2 usage, 3 authorization needed, 4 unreachable or
timed out, 5 the tool failed or is unknown, 130 interrupted"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the console script."""
    parser = _Parser(
        prog="mcpsync",
        description="Talk to Model Context Protocol servers.",
        epilog=_EPILOG,
    )
    version = "%(prog)s " + __version__
    parser.add_argument("--version", action="version", version=version)
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser, *, talk_options: bool = True) -> None:
    """Add the subcommands and their options to a parser.

    Args:
        talk_options: whether to add ``-v``, ``-q`` and ``--no-color``, which a host
            program may have already.
    """
    _add_options(parser, talk_options)
    commands = parser.add_subparsers(
        dest="verb",
        metavar="COMMAND",
        title="commands",
        required=True,
        parser_class=_CommandParser,
    )
    for name, verb in _VERBS.items():
        added = commands.add_parser(
            name,
            help=verb.help,
            usage=_usage(verb),
            description=verb.help[0].upper() + verb.help[1:] + ".",
            epilog=verb.text or None,
        )
        added.add_argument("words", nargs="*", help=argparse.SUPPRESS)
        _add_own_options(added, name)
        hidden = name in LOGIN_VERBS
        _add_options(added, talk_options, repeated=True, hidden=hidden)


def _usage(verb: _Verb) -> str:
    if not verb.server:
        return "%(prog)s [options]"
    words = " " + verb.words if verb.words else ""
    if not verb.commands:
        return "%%(prog)s URL%s [options]" % words
    return (
        "%%(prog)s URL%s [options]\n"
        "       %%(prog)s%s [options] -- COMMAND [ARGUMENT ...]"
    ) % (words, words)


def _add_own_options(parser: argparse.ArgumentParser, verb: str) -> None:
    add = parser.add_argument
    if verb == "tools":
        add("--schema", action="store_true", help="show the schemas of the arguments")
    elif verb == "call":
        add(
            "--json",
            dest="json_arguments",
            metavar="OBJECT|@FILE|-",
            help="the tool's arguments as one JSON object; - reads standard input",
        )
    elif verb == "complete":
        add(
            "--template",
            action="store_true",
            help="it is a resource template, even without ://",
        )
    elif verb in LOGIN_VERBS:
        _add_login_options(add, verb)
    if verb in ("read", "call"):
        add(
            "-o",
            dest="save_to",
            metavar="FILE",
            help=(
                "save what was read; - writes it to standard output"
                if verb == "read"
                else "save images, sounds and blobs; several need a directory"
            ),
        )


def _add_login_options(add: Any, verb: str) -> None:
    add(
        "--name",
        metavar="NAME",
        help="what it is kept under, for connect(URL, name=NAME) (default: the host)",
    )
    add(
        "--store",
        choices=("auto", "keyring", "file"),
        help="where credentials are kept (default: auto)",
    )
    if verb != "login":
        return
    add(
        "--no-browser",
        action="store_true",
        help="show the URL to open anywhere, and ask for the address where that ends",
    )
    add(
        "--scopes",
        action="append",
        metavar="SCOPES",
        help='scopes to ask for besides those that the server names: "a b"',
    )
    add("--client-id", metavar="ID", help="a client that was registered by hand")
    add(
        "--client-secret-from-env",
        metavar="VARIABLE",
        help="the secret of that client, from the environment",
    )
    add(
        "--ask-secret",
        action="store_true",
        help="ask for the secret of that client, unseen",
    )
    add("--issuer", metavar="URL", help="where that client is registered")
    add(
        "--client-metadata-url",
        metavar="URL",
        help="the URL of the client's own metadata document",
    )
    add(
        "--redirect-uri",
        metavar="URI",
        help="where the browser comes back to (default: a free port of 127.0.0.1)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("%r is no number of seconds above 0" % text)
    return value


def _add_options(
    parser: argparse.ArgumentParser,
    talk_options: bool,
    repeated: bool = False,
    hidden: bool = False,
) -> None:
    """Add the options that every subcommand has.

    Repeated ones leave the values of the first alone unless they are given; those that
    add up have a second destination, because a subcommand's value replaces the other.

    Args:
        hidden: whether the help keeps the options about servers to itself.
    """
    default: Any = argparse.SUPPRESS if repeated else None
    more = "_more" if repeated else ""
    _add_server_options(parser, default, more, hidden)
    talk = parser.add_argument_group("output options")
    talk.add_argument(
        "--output",
        choices=("text", "json", "name"),
        default=default,
        help="text; one JSON object; or names alone",
    )
    if talk_options:
        _add_talk_options(talk, default, more)


def _add_server_options(
    parser: argparse.ArgumentParser, default: Any, more: str, hidden: bool
) -> None:
    group = parser.add_argument_group("server options")

    def add(*flags: str, help: str, **settings: Any) -> None:
        shown = argparse.SUPPRESS if hidden else help
        group.add_argument(*flags, help=shown, default=default, **settings)

    for flag, text in (
        ("--timeout", "for one request (default: 300)"),
        ("--startup-timeout", "for starting and connecting (default: 30)"),
    ):
        add(flag, type=_seconds, metavar="SECONDS", help=text)
    add(
        "--protocol",
        metavar="auto|legacy|VERSION",
        help="the protocol to speak (default: auto)",
    )
    for flags, dest, metavar, text in _LISTS:
        add(*flags, action="append", dest=dest + more, metavar=metavar, help=text)
    add("--cwd", metavar="DIR", help="where the command runs")


_LISTS: Tuple[Tuple[Tuple[str, ...], str, str, str], ...] = (
    (
        ("-e", "--env"),
        "env",
        "K=V",
        "a variable for the command; -e K passes on our own K",
    ),
    (("-H", "--header"), "headers", "'K: V'", "an HTTP header; not for secrets"),
    (
        ("--header-from-env",),
        "headers_from_env",
        "K=VARIABLE",
        "an HTTP header from the environment: Authorization=TOKEN_VARIABLE",
    ),
)


def _add_talk_options(group: Any, default: Any, more: str) -> None:
    add = group.add_argument
    add(
        "-v",
        "--verbose",
        action="count",
        dest="verbose" + more,
        default=default,
        help="say more; twice, even more",
    )
    add(
        "-q",
        "--quiet",
        action="store_true",
        default=default,
        help="say nothing but the result and errors",
    )
    add(
        "--no-color",
        action="store_true",
        default=default,
        help="no colors (nor with NO_COLOR set)",
    )


# --- what was given ---------------------------------------------------------------


def settings_from(
    namespace: argparse.Namespace, command: Optional[Tuple[str, ...]]
) -> Settings:
    """Return the settings in what the parser found, and in what stood after ``--``."""
    found = vars(namespace)

    def merged(name: str) -> Tuple[str, ...]:
        return (*(found.get(name) or ()), *(found.get(name + "_more") or ()))

    louder = (found.get("verbose") or 0) + (found.get("verbose_more") or 0)
    return Settings(
        verb=found["verb"],
        words=tuple(found["words"]),
        command=command,
        timeout=found["timeout"],
        startup_timeout=found["startup_timeout"],
        protocol=found["protocol"] or "auto",
        env=merged("env"),
        cwd=found["cwd"],
        headers=merged("headers"),
        headers_from_env=merged("headers_from_env"),
        output=found["output"] or "text",
        color=not (found.get("no_color") or os.environ.get("NO_COLOR")),
        verbosity=-1 if found.get("quiet") else louder,
        own={name: found.get(name) for name in _OWN},
    )


_OWN = (
    "ask_secret",
    "client_id",
    "client_metadata_url",
    "client_secret_from_env",
    "issuer",
    "json_arguments",
    "name",
    "no_browser",
    "redirect_uri",
    "save_to",
    "schema",
    "scopes",
    "store",
    "template",
)
