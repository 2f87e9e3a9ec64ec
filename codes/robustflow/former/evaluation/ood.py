"""``python -m robustflow.evaluation.ood``, as this command was spelt."""

import sys

from robustflow.diagnostics.ood.commands import main

if __name__ == "__main__":
    sys.exit(main())
