"""``python -m robustflow``: the command `robustflow`, installed or not; and its commands by their former names."""

import sys

from robustflow.cli import main
from robustflow.utils.former import COMMANDS

if __name__ == "__main__":
    former = [COMMANDS[__spec__.name]] if __spec__ is not None and __spec__.name in COMMANDS else []
    raise SystemExit(main([*former, *sys.argv[1:]]))
