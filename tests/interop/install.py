"""Install the Python servers that the interoperability tests drive.

    python tests/interop/install.py DIRECTORY

Each gets a virtual environment of its own below DIRECTORY. One whose requirements
have not changed since it was made is left as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

ENVIRONMENTS = {
    "sdk2": ["mcp==2.3.0"],
    "sdk1-new": ["mcp==1.30.0"],
    # This release imports a private name that pydantic removed in 2.12.
    "sdk1-old": ["mcp==1.12.4", "pydantic<2.12"],
    "fastmcp": ["fastmcp==4.1.2"],
    "reference": ["mcp-server-time==2026.10.19", "mcp-server-git==2026.10.19"],
}
# The servers need 3.10; 3.12 comes first because all their dependencies have
# wheels for it.
INTERPRETERS = ("python3.12", "python3.13", "python3.11", "python3.10")
MARKER = "requirements.txt"


def main() -> None:
    """Bring every environment up to date."""
    directory = Path(sys.argv[1]).resolve()
    interpreter = find_interpreter()
    for name, requirements in ENVIRONMENTS.items():
        install(interpreter, directory / name, requirements)


def find_interpreter() -> str:
    """Return the first interpreter of the list that runs."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for name in INTERPRETERS:
        for folder in folders:
            path = shutil.which(name, path=folder)
            if path and runs(path):
                return path
    sys.exit(f"interop: none of {', '.join(INTERPRETERS)} on PATH can be run")


def runs(path: str) -> bool:
    """Tell an interpreter from the shim that a version manager puts in its place."""
    return not subprocess.run([path, "-c", ""], stderr=subprocess.DEVNULL).returncode


def install(interpreter: str, directory: Path, requirements: List[str]) -> None:
    """Make one environment, unless it holds these requirements already."""
    marker = directory / MARKER
    wanted = "\n".join(requirements) + "\n"
    if marker.is_file() and marker.read_text() == wanted:
        print(f"interop: {directory.name} is up to date")
        return
    print(f"interop: installing {directory.name}: {' '.join(requirements)}", flush=True)
    subprocess.run([interpreter, "-m", "venv", "--clear", str(directory)], check=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", *requirements], check=True)
    marker.write_text(wanted)


if __name__ == "__main__":
    main()
