"""Earlier commits, to be compared with the code that is here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.networks import CONFS, FULL, ROOT, TINY
from benchmarks.setting import Setting

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


def run(script: str, root: Path, coupling: str, setting: Setting, changes: Sequence[str] = (), *arguments: str) -> str:
    """Run a script of this folder on the full network in a process of its own; return the last line that it prints.

    Args:
        script: Its name; it is given the option file, overrides, and the arguments.
        root: Of the code whose package it finds.
        coupling: Of the network.
        setting: CPU threads, and whether the network is a tiny one instead.
        changes: Overrides.
        arguments: The others.
    """
    override = "|".join((*FULL, *(TINY if setting.tiny else ()), *changes))
    conf = root / "confs" / f"{CONFS[coupling]}.yml"
    command = [sys.executable, str(ROOT / "benchmarks" / script), str(conf), override, *arguments]
    environment = os.environ | {"PYTHONPATH": str(root / "codes"), "OMP_NUM_THREADS": str(setting.threads)}
    done = subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]
