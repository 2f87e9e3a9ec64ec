"""Applications of a trained flow: ``python -m robustflow.apply KIND -opt confs/x.yml ...``; see `--help`."""

import sys

from robustflow.applications.commands import main

if __name__ == "__main__":
    sys.exit(main())
