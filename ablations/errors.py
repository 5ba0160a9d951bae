"""The one exception for mistakes of the user, as opposed to ours."""


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, what is allowed, the nearest name."""
