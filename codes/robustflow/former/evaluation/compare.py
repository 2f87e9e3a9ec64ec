"""``python -m robustflow.evaluation.compare``, as this command was spelt."""

import sys

from robustflow.report.compare import main

if __name__ == "__main__":
    sys.exit(main())
