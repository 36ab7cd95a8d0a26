"""The exception for mistakes that a user can correct."""


class UserError(Exception):
    """A mistake that the user can correct; the message names the problem, its place, expected and found values and a remedy."""
