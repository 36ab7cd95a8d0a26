"""The exception for mistakes that a user can correct."""

from nan_merge.core.escape import visible


class UserError(Exception):
    """A mistake that the user can correct; the message names the problem, its place, expected and found values and a remedy.

    Names that others wrote stand in messages: their control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))
