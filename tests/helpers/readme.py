"""The commands that the README documents."""

import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()


def commands() -> list[list[str]]:
    """Words of every command, in order."""
    lines = README.replace("\\\n", " ").splitlines()
    indented = [line.strip() for line in lines if line.startswith("    ")]
    documented = [command for command in indented if command.startswith(("robustflow ", "python ", "bash "))]
    return [shlex.split(command, comments=True) for command in documented]
