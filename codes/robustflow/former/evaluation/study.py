"""``python -m robustflow.evaluation.study``, as this command was spelt."""

import sys

from robustflow.commands.study import main

if __name__ == "__main__":
    sys.exit(main())
