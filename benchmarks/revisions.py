"""Earlier commits, to be compared with the code that is here."""

import shutil
import subprocess
from pathlib import Path

from benchmarks.networks import ROOT

_NEEDED = ("codes", "confs", "train.py")


def extract(revision: str, folder: Path) -> str:
    """Write code and options of a commit into the folder; return "", or a line that says why not."""
    file = folder / "archive.tar"
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", f"--output={file}", revision, *_NEEDED]
    if shutil.which("git") is None:
        return f"\n{revision}: not measured, git is not installed"
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return f"\n{revision}: not measured, git has no such commit here ({done.stderr.strip().splitlines()[0]})"
    shutil.unpack_archive(file, folder)
    return ""
