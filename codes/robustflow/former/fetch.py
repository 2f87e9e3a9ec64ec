"""`robustflow fetch`, by the name of a module."""

import sys

from robustflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["fetch", *sys.argv[1:]]))
