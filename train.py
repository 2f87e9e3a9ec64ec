"""Train a model: python train.py -opt confs/demo.yml [--override "key=value|..."] [--resume auto].

On several GPUs: torchrun --standalone --nproc_per_node N train.py -opt confs/demo.yml ...
"""

import sys

from robustflow import launcher
from robustflow.options import command_line
from robustflow.options.toy import ToyOptions


def main() -> int:
    """Run the command line; return the exit status."""
    with launcher.one_voice():
        options = command_line.load_any_or_exit(command_line.parse(None, testing=False))
        if isinstance(options, ToyOptions):
            launcher.require_one_process(options.name)
    # Imported after the options are read: a typing error is answered before the libraries are loaded.
    if isinstance(options, ToyOptions):
        from robustflow.toy import engine as toy

        return toy.run(options)
    from robustflow.training import engine

    return engine.run(options)


if __name__ == "__main__":
    sys.exit(main())
