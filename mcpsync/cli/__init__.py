"""The command line: ``mcpsync``, or ``python -m mcpsync``.

Exit codes: 0 all went well; 1 unexpected; 2 wrong usage; 3 authorization needed;
4 the server is unreachable or took too long; 5 the tool failed, or there is none of
that name; 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import List, Optional, Sequence

from ._output import Output
from ._parser import UsageError, build_parser, settings_from, split_command

__all__ = ["main"]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments, by default those of the process.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    output = Output(json_mode=_wants_json(given))
    try:
        return _main(given, output)
    except SystemExit as stop:
        # --help and --version have been shown.
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        # The help text was too long for whoever reads it.
        return 0
    except UsageError as error:
        return output.usage_error(error)
    except KeyboardInterrupt:
        return output.interrupted()
    finally:
        output.close()


def _main(given: List[str], output: Output) -> int:
    before, command = split_command(given)
    settings = settings_from(build_parser().parse_args(before), command)
    output.configure(settings)
    # Imported here: --help and --version need nothing of it.
    from ._run import run

    return run(settings, output)


def _wants_json(given: Sequence[str]) -> bool:
    """Tell whether even a usage error has to be JSON, before anything is parsed."""
    before, _ = split_command(given)
    pairs = zip(before, list(before[1:]) + [""])
    return "--output=json" in before or ("--output", "json") in pairs
