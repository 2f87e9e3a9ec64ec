"""Times what the host does in an iteration besides forward and backward: ``python host_child.py CONF OVERRIDE``.

A GPU replays these as one graph; here they are computed once, and their result is taken from then on. Prints the median
of seconds per iteration. The package is the one that Python finds, today's or an earlier one.
"""

import itertools
import statistics
import sys
import time
from typing import Any

from robustflow.options.load import load
from robustflow.training import gradients, loop

# Two compute: the first initialises ActNorms; and some until all is allocated.
COMPUTED, LEFT_OUT = 2, 10

compute = gradients._compute
results: list[Any] = []
marks: list[float] = []


def replay(*arguments: Any) -> Any:
    """Stands in for forward and backward pass."""
    marks.append(time.perf_counter())
    if len(results) < COMPUTED:
        results.append(compute(*arguments))
    return results[-1]


if __name__ == "__main__":
    gradients._compute = replay  # type: ignore[assignment]
    loop.train(load(sys.argv[1], sys.argv[2]))
    print(statistics.median(end - begin for begin, end in itertools.pairwise(marks[LEFT_OUT:])))
