"""What is asked of sealing a checkpoint."""

from dataclasses import dataclass

from model.errors import WrongSettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """How the bundle is labelled."""

    name: str
    licence: str
    "SPDX id under which the weights are given on."
    data_source: str
    data_licence: str

    def __post_init__(self) -> None:
        """Refuse a bundle that does not say what it is.

        Raises: WrongSettingError.
        """
        for field in ("name", "licence", "data_source", "data_licence"):
            if not getattr(self, field).strip():
                raise WrongSettingError(f"checkpoint.{field}", "empty", "a text")
