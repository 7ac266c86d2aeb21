"""Build the distributions, check them, install the wheel and run its command.

    python .ci/check_dist.py DIRECTORY

Exits non-zero at the first thing that is wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import List

NEEDED_IN_SDIST = (
    ".ci/run",
    "CHANGES.rst",
    "LICENSE",
    "README.rst",
    "mcpsync/py.typed",
    "setup.cfg",
    "setup.py",
    "tests/conftest.py",
    "tests/conformance/run.py",
    "tests/interop/install.py",
    "tox.ini",
)


def main() -> None:
    """Run all checks."""
    directory = Path(sys.argv[1]).resolve()
    output = directory / "dist"
    run([sys.executable, "-m", "build", "--outdir", str(output), "."])
    (sdist,) = output.glob("*.tar.gz")
    (wheel,) = output.glob("*.whl")
    run([sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)])
    run([sys.executable, "-m", "check_wheel_contents", str(wheel)])
    check_sdist(sdist)
    check_command(wheel, directory / "venv")


def check_sdist(sdist: Path) -> None:
    """Fail unless the source distribution holds what a packager needs."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in NEEDED_IN_SDIST if name not in names]
    if missing:
        sys.exit(f"{sdist.name} lacks {', '.join(missing)}")
    print(f"{sdist.name} holds {len(names)} entries, tests included")


def check_command(wheel: Path, directory: Path) -> None:
    """Install the wheel alone and compare what its command says with its name."""
    venv.create(directory, with_pip=True, clear=True)
    run([str(directory / "bin" / "python"), "-m", "pip", "install", "-q", str(wheel)])
    command = [str(directory / "bin" / "mcpsync"), "--version"]
    said = run(command).strip()
    version = wheel.name.split("-")[1]
    if version not in said.split():
        sys.exit(f"mcpsync --version said {said!r}, the wheel is {version}")


def run(command: List[str]) -> str:
    """Run a command, show and return its output; a failure ends this script."""
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"{command[0]} exited with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
