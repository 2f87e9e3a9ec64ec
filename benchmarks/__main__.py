"""Command line: ``python -m benchmarks [CASE ...]`` from the root of the repository."""

import argparse
import math
import signal
import sys

import torch

from benchmarks.cases import CASES, DEFAULT
from benchmarks.setting import Setting
from robustflow.nn import fused
from robustflow.utils.answer import accept_all_characters


def _arguments() -> argparse.Namespace:
    listing = "\n".join(f"  {name:12} {case.__doc__}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time and memory of the published way and ours, same network, same weights.",
        epilog=f"cases:\n{listing}\n\nwithout CASE: {' '.join(DEFAULT)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="what to measure")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each way, in turns (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: to try the program, not to measure")
    parser.add_argument(
        "--before", metavar="REV", default=Setting.before, help="commit to compare operations, busy and host with"
    )
    namespace = parser.parse_args()
    unknown = [name for name in namespace.cases if name not in CASES]
    if unknown:
        parser.error(f"unknown case {', '.join(unknown)}; expected one of {', '.join(CASES)}")
    if namespace.repeats < 1 or namespace.threads < 1:
        parser.error("expected --repeats and --threads of at least 1")
    return namespace


def main() -> None:
    """Run the cases one after another. Who is told to end prints what it has."""
    accept_all_characters()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _arguments()
    setting = Setting(arguments.device, arguments.threads, arguments.repeats, arguments.tiny, arguments.before)
    torch.set_num_threads(setting.threads)
    # What is measured is a long run, whose elementwise maps are compiled.
    with fused.expecting(math.inf):
        for name in arguments.cases or DEFAULT:
            CASES[name](setting)


if __name__ == "__main__":
    main()
