"""Errors that are answered with a message instead of a traceback."""


class UserError(ValueError):
    """A mistake the user can mend: the message says what was expected, what came, and how to fix it."""


class RunFailed(RuntimeError):
    """A run that cannot go on, though all that was given is right: the message says why and what to do."""
