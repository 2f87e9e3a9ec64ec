"""``python -m robustflow.evaluation.compare``, as this command was spelt."""

import sys

from robustflow.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
