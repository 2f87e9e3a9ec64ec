"""What commands print to."""

import io
import sys


def accept_all_characters() -> None:
    """Have standard output and error print ``?`` for what their encoding lacks (cp1252, ASCII): no error at the end."""
    for stream in (sys.stdout, sys.stderr):
        # Not in a notebook, say, whose streams take everything.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
