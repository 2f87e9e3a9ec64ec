"""`robustflow prepare`, as it was spelt."""

import sys

from robustflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
