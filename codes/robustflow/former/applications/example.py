"""``python -m robustflow.applications.example``, as this command was spelt."""

import sys

from robustflow.latent.example import main

if __name__ == "__main__":
    sys.exit(main())
