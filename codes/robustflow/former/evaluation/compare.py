"""`robustflow compare`, as it was spelt."""

import sys

from robustflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
