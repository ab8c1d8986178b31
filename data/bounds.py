"""Bounds on settings: a value is inside, or the setting is refused by name."""

from data.errors import WrongSettingError


def at_least(setting: str, found: int, least: int) -> None:
    """Refuse a number below its least value.

    Raises: WrongSettingError.
    """
    if found < least:
        raise WrongSettingError(setting, found, f"at least {least}")


def share(setting: str, found: float) -> None:
    """Refuse a share that leaves one of two sides with nothing by definition.

    Raises: WrongSettingError.
    """
    if not 0 < found < 1:
        raise WrongSettingError(setting, found, "between 0 and 1, both excluded")
