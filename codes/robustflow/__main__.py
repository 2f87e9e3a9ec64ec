"""``python -m robustflow``: the command `robustflow`, installed or not."""

from robustflow.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
