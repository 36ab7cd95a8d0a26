"""The error of a mistake that the user can correct."""


class UserError(Exception):
    """A mistake that the user can mend: what, where, expected, found and the way out, in one message."""
