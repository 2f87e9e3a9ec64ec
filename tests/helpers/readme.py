"""What README.md and docs/*.md show: their commands, their code, their links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^    (?=(?:bash|pip|python|robustflow|source|torchrun) )(.*(?:\\\n.*)*)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Its fenced blocks of a language."""
    return [code for of, code in _BLOCK.findall(page.read_text()) if of == language]


def prose(page: Path) -> str:
    """Its text without blocks."""
    return _BLOCK.sub("", page.read_text())


def commands() -> list[list[str]]:
    """Words of every command, once each, in order."""
    shown = [code for page in PAGES for code in (*blocks(page, "bash"), *_INDENTED.findall(prose(page)))]
    lines = [line for code in shown for line in code.replace("\\\n", "").splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [list(words) for words in dict.fromkeys(map(tuple, found)) if words]
