"""Applications of a trained flow: ``python -m robustflow.apply KIND -opt confs/x.yml ...``; see `--help`."""

import sys

from robustflow.applications.command_line import main

if __name__ == "__main__":
    sys.exit(main())
