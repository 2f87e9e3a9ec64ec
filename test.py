"""Evaluate a model: python test.py -opt confs/demo.yml [--weights F] [--input DIR] [--output DIR] [--trace].

On several GPUs: torchrun --standalone --nproc_per_node N test.py -opt confs/demo.yml ...
"""

import sys
from pathlib import Path

# The package beside this file, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent / "codes"))

from robustflow.commands.test import main

if __name__ == "__main__":
    sys.exit(main(prog="test.py"))
