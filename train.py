"""Train a model: python train.py -opt confs/demo.yml [--override "key=value|..."] [--resume auto] [--check].

On several GPUs: torchrun --standalone --nproc_per_node N train.py -opt confs/demo.yml ...
"""

import sys
from pathlib import Path

# The package beside this file, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent / "codes"))

from robustflow.options import amount, command_line
from robustflow.options.toy import ToyOptions
from robustflow.utils import launcher


def main() -> int:
    """Run the command line; return the exit status."""
    with launcher.one_voice():
        arguments = command_line.parse(None, testing=False)
        options = command_line.load_any_or_exit(arguments)
        if isinstance(options, ToyOptions):
            launcher.require_one_process(options.name)
            if arguments.check:
                sys.stderr.write(f"--check: expected a model of images, got {options.name}: it takes minutes, run it\n")
                return 2
    amount.settle_threads(options, testing=False)
    # Imported after the options are read: a typing error is answered before the libraries are loaded.
    if isinstance(options, ToyOptions):
        from robustflow.toy import engine as toy

        return toy.run(options)
    from robustflow.training import engine

    return engine.run(options, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
