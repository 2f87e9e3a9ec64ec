"""Evaluate a model: python test.py -opt confs/demo.yml [--weights F] [--input DIR] [--output DIR] [--trace].

On several GPUs: torchrun --standalone --nproc_per_node N test.py -opt confs/demo.yml ...
"""

import sys
from pathlib import Path

# The package beside this file, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent / "codes"))

from robustflow.options import command_line
from robustflow.utils import launcher


def main() -> int:
    """Run the command line; return the exit status."""
    with launcher.one_voice():
        arguments = command_line.parse(None, testing=True)
        options = command_line.load_or_exit(arguments)
        if arguments.trace:
            launcher.require_one_process("--trace")
    # Imported after the options are read: a typing error is answered before the libraries are loaded.
    from robustflow.commands import evaluate

    return evaluate.run(options, arguments.input, arguments.output, arguments.trace)


if __name__ == "__main__":
    sys.exit(main())
