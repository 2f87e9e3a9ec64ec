"""What every layer does along sampling, which one explodes first, and how much the model can amplify.

examples, where robustflow test --trace does the same:
  robustflow trace -opt confs/demo.yml
  robustflow trace -opt confs/demo.yml --input photos/ --output traced/

The sub-folder trace of --output gets it. All keys: robustflow options
"""

from collections.abc import Sequence

from robustflow.commands import test
from robustflow.commands.arguments import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, as `test`."""
    parser = Parser(prog="robustflow trace", description=__doc__, allow_abbrev=False)
    test.add_arguments(parser)
    parser.set_defaults(trace=True)
    chosen, options = test.read(parser, arguments)
    from robustflow.commands import evaluate

    return evaluate.run(options, chosen.input, chosen.output, trace=True)
