"""The command `robustflow ood`, given options instead of their file."""

from robustflow.commands import ood
from robustflow.options import load


def command(options, tmp_path, kind, *arguments):
    """Run `ood KIND` with options and arguments; return the exit status."""
    load.save(options, tmp_path / "options.yml")
    return ood.main([kind, "-opt", str(tmp_path / "options.yml"), *map(str, arguments)])
