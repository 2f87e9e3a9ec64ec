"""Errors that are answered with a message instead of a traceback."""


class UserError(ValueError):
    """A mistake the user can mend: the message says what was expected, what came, and how to fix it."""
