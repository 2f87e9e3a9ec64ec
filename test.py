"""Evaluate a model: python test.py -opt confs/demo.yml [--weights F] [--input DIR] [--output DIR] [--trace]."""

import sys

from robustflow.options import command_line


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = command_line.parse(None, testing=True)
    options = command_line.load_or_exit(arguments)
    # Imported after the options are read: a typing error is answered before the libraries are loaded.
    from robustflow.evaluation import engine

    return engine.run(options, arguments.input, arguments.output, arguments.trace)


if __name__ == "__main__":
    sys.exit(main())
