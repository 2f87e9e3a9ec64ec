"""Layer trace and slope audit of a model: robustflow trace -opt confs/x.yml, the same as robustflow test --trace."""

import sys
from collections.abc import Sequence

from robustflow.commands import test


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, as `test`."""
    return test.main([*(sys.argv[1:] if arguments is None else arguments), "--trace"])
