"""Train a model: python train.py -opt confs/demo.yml [--override "key=value|..."] [--resume auto] [--check].

On several GPUs: torchrun --standalone --nproc_per_node N train.py -opt confs/demo.yml ...
"""

import sys
from pathlib import Path

# The package beside this file, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent / "codes"))

from robustflow.commands.train import main

if __name__ == "__main__":
    sys.exit(main(prog="train.py"))
