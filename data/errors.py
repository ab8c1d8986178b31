"""What can go wrong in the data package; drawn as a tree when it has one."""


class DataError(Exception):
    """Base of this package; `hint` is the one useful action, or empty."""

    hint: str = ""
