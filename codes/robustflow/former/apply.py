"""``python -m robustflow.apply``, as this command was spelt."""

import sys

from robustflow.latent.command_line import main

if __name__ == "__main__":
    sys.exit(main())
