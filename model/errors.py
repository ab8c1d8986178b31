"""What can go wrong in the model package.

ModelError
+-- WrongSettingError        a setting contradicts another, or the data
+-- ModelFormatError         a file is not what its format says
|   +-- CorruptFileError     its bytes changed, or end too early
+-- UnencodableError         a matrix that a block format cannot hold
+-- WrongTensorsError        tensor names or shapes differ from the architecture's
+-- NonFiniteError           a loss or a gradient is NaN or infinite
+-- LossSpikeError           a loss or a gradient norm far above those before it
+-- StreamExhaustedError     the batches ended before the step budget
+-- DifferentProgramsError   two traces are not of the same computation
"""

import copyreg
from dataclasses import dataclass
from pathlib import Path


class ModelError(Exception):
    """Base of this package; `hint` is the one useful action, or empty."""

    hint: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by attributes: an error given its fields by keyword crosses processes too."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


@dataclass(eq=False)
class WrongSettingError(ModelError):
    """A setting that cannot work: which, what it is, what it should be."""

    setting: str
    found: object
    expected: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found}, should be {self.expected}"


@dataclass(eq=False)
class ModelFormatError(ModelError):
    """A file that is not what its format says."""

    path: Path
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class CorruptFileError(ModelFormatError):
    """A file whose bytes changed or end too early."""

    hint = "restore the file from its source, or build it again"


@dataclass(eq=False)
class UnencodableError(ModelError):
    """A matrix that a block format cannot hold, or blocks that are not of a matrix."""

    kind: str
    found: str
    expected: str
    hint = "keep this tensor in a floating-point type"

    def __str__(self) -> str:
        return f"{self.kind}: {self.found}, should be {self.expected}"


@dataclass(eq=False)
class WrongTensorsError(ModelError):
    """Tensors that are not exactly the architecture's."""

    where: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            f"{label} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for label, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("wrong shape", self.misshapen),
            )
            if names
        ]
        return f"{self.where}: {'; '.join(parts)}; should be exactly the architecture's tensors"


@dataclass(eq=False)
class NonFiniteError(ModelError):
    """A NaN or infinite quantity, found before the optimizer saw it."""

    quantity: str
    step: int
    value: float
    hint = "bisect the last snapshot, or lower train.peak_lr"

    def __str__(self) -> str:
        return f"step {self.step}: {self.quantity} is {self.value}, should be finite"


@dataclass(eq=False)
class LossSpikeError(ModelError):
    """A spike that ends the training, found before the optimizer saw it."""

    step: int
    quantity: str
    value: float
    bound: float
    num_answered: int
    hint = "lower train.peak_lr, or let train.spike_response answer more spikes (train.max_spikes)"

    def __str__(self) -> str:
        before = f", after {self.num_answered} that were answered" if self.num_answered else ""
        return (
            f"step {self.step}: {self.quantity} spikes to {self.value:.6g}{before}, "
            f"should be at most {self.bound:.6g}"
        )


@dataclass(eq=False)
class StreamExhaustedError(ModelError):
    """The batches ended before the step budget."""

    step: int
    num_steps: int
    hint = "lower train.num_steps, raise train.max_passes or use a larger corpus"

    def __str__(self) -> str:
        return f"batches ended after step {self.step}, should reach step {self.num_steps}"


@dataclass(eq=False)
class DifferentProgramsError(ModelError):
    """Two traces that must not be compared."""

    site: str
    left: str
    right: str
    hint = "trace both sides on the same token ids and the same architecture"

    def __str__(self) -> str:
        return f"{self.site}: {self.left} on one side, {self.right} on the other; should be equal"
