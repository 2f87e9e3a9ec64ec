"""``python -m robustflow.evaluation.report_html``, as this command was spelt."""

import sys

from robustflow.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
