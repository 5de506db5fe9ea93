"""A virtual environment for the programs that Hindsight is measured beside, outside of the project's tree."""

import os
import subprocess
import sys
from pathlib import Path


def enter(name, packages, variables=()):
    """Goes on in the virtual environment `name`, which holds `packages`, with more environment `variables`."""
    if os.environ.get("HINDSIGHT_PEERS") == name:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "hindsight" / name
    python = home / "bin" / "python"
    stamp = home / "packages.txt"
    wanted = "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {' '.join(packages)} into {home}", file=sys.stderr)
        run(sys.executable, "-m", "venv", home)
        run(python, "-m", "pip", "install", "--quiet", *packages)
        stamp.write_text(wanted)
    environment = os.environ | dict(variables) | {"HINDSIGHT_PEERS": name}
    os.execve(python, [str(python), *sys.argv], environment)


def run(*command):
    """Runs a command, and ends the program with a way out if it fails."""
    if status := subprocess.run(command, stdout=sys.stderr).returncode:
        shown = " ".join(map(str, command))
        sys.exit(f"error: {shown}: ended with {status}\nhint: it needs python3-venv, a C++ compiler, and pip's way to packages")
