"""``python -m robustflow.training.replay``, as this command was spelt."""

import sys

from robustflow.training.failures.replay import main

if __name__ == "__main__":
    sys.exit(main())
