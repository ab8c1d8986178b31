"""What is asked of sealing a checkpoint."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from model.errors import WrongSettingError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
LICENCE = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")
NO_LICENCE = ("unknown", "none", "noassertion", "tbd", "todo", "other", "n/a", "-")
"What stands where nobody has decided."

SafetensorsDtype = Literal["float32", "float16", "bfloat16"]
AprType = Literal["Q4K", "Q6K", "AprQ4", "AprQ8"]
GgufType = Literal["F32", "F16", "BF16", "Q8_0", "Q4_K", "Q6_K"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """How the bundle is labelled, and which files it has beside `model.apr`."""

    name: str
    "Names files of the bundle, too."
    licence: str
    "SPDX id under which the weights are given on."
    data_source: str
    data_licence: str
    safetensors_dtype: SafetensorsDtype
    "If not float32, bisecting finds the rounding: raise thresholds.max_trace_error to that."
    apr_types: tuple[AprType, ...]
    "Quantised .apr files."
    gguf_types: tuple[GgufType, ...]

    def __post_init__(self) -> None:
        """Refuse a bundle that does not say what it is.

        Raises: WrongSettingError.
        """
        for field in ("name", "licence", "data_source", "data_licence"):
            if not getattr(self, field).strip():
                raise WrongSettingError(f"checkpoint.{field}", "empty", "a text")
        if not NAME.fullmatch(self.name):
            expected = "letters, digits, '.', '_' and '-', at most 96"
            raise WrongSettingError("checkpoint.name", repr(self.name), expected)
        if not is_licence(self.licence):
            expected = "an SPDX id such as Apache-2.0"
            raise WrongSettingError("checkpoint.licence", repr(self.licence), expected)
        for field, known in {"apr_types": AprType, "gguf_types": GgufType}.items():
            types = getattr(self, field)
            if not set(types) <= set(get_args(known)):
                expected = f"of {', '.join(get_args(known))}"
                raise WrongSettingError(f"checkpoint.{field}", types, expected)
            if len(set(types)) < len(types):
                raise WrongSettingError(f"checkpoint.{field}", types, "each type once")


def is_licence(text: str) -> bool:
    """Tell whether a text could be an SPDX expression that grants something."""
    return LICENCE.fullmatch(text) is not None and text.lower() not in NO_LICENCE
