"""What can go wrong in the evidence package.

EvidenceError
+-- NotPlainError       a value that JSON cannot hold exactly
+-- MalformedJsonError  bytes that are not one strict JSON document
+-- BrokenSealError     a record whose digest is not that of its fields
+-- WrongShapeError     a sealed record without the fields of its kind
+-- BrokenChainError    a chain of records that was edited
+-- WrongHeadError      text that does not name a chain's head
+-- WrongRefError       text that does not name an artefact
+-- GateFailedError     a required gate did not hold
+-- NoEvidenceError     a place with nothing in it to judge
+-- MalformedEvidenceError  somebody's evidence that cannot be read
"""

import copyreg
from dataclasses import dataclass

SEE_ALL = "`assay status` lists every gate of a run with its threshold"


class EvidenceError(Exception):
    """Base of this package; `hint` is the one useful action, or empty."""

    hint: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by attributes: an error given its fields by keyword crosses processes too."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


@dataclass(eq=False)
class NotPlainError(EvidenceError):
    """A value that has no canonical JSON form."""

    where: str
    found: str

    def __str__(self) -> str:
        expected = (
            "a finite number, a string, a boolean, null, a list or a mapping with string keys"
        )
        return f"{self.where or 'value'} is {self.found}, should be {expected}"


@dataclass(eq=False)
class MalformedJsonError(EvidenceError):
    """Bytes that are not one strict JSON document."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}, should be one strict JSON document"


@dataclass(eq=False)
class BrokenSealError(EvidenceError):
    """A record whose own digest is not that of its other fields: it was edited."""

    path: str
    recorded: str
    found: str
    hint = "`assay verify` says what else does not hold"

    def __str__(self) -> str:
        return f"{self.path}: its fields have the digest {self.found}, should be {self.recorded}"


@dataclass(eq=False)
class BrokenChainError(EvidenceError):
    """A chain of records in which something is not as it was written."""

    path: str
    faults: tuple[str, ...]
    hint = (
        "restore CHAIN.jsonl and HEAD from a copy; to begin a new chain, move both away and keep "
        "them"
    )

    def __str__(self) -> str:
        listed = "".join(f"\n  {fault}" for fault in self.faults)
        return f"{self.path}: was edited, should only grow{listed}"


@dataclass(eq=False)
class WrongHeadError(EvidenceError):
    """Text that does not name a chain's head."""

    text: str

    def __str__(self) -> str:
        return f"{self.text!r} names no head of a chain, should be SEQ:SHA256"


@dataclass(eq=False)
class WrongRefError(EvidenceError):
    """Text that does not name an artefact."""

    text: str
    expected: str

    def __str__(self) -> str:
        return f"{self.text!r} cannot be used here, should be {self.expected}"


@dataclass(eq=False)
class GateFailedError(EvidenceError):
    """A required gate did not hold; the message is the gate's sentence."""

    gate: str
    sentence: str
    value: float | None
    operator: str
    threshold: float | None
    where: str = ""
    "The step or the epoch, where a stage has more than one."
    hint: str = SEE_ALL

    def __str__(self) -> str:
        where = f"{self.where}, " if self.where else ""
        return (
            f"{where}gate {self.gate}: {self.sentence}: measured {_number(self.value)}, "
            f"should be {self.operator} {_number(self.threshold)}"
        )


@dataclass(eq=False)
class NoEvidenceError(EvidenceError):
    """A place with nothing in it to judge."""

    where: str
    found: str
    hint = "name a directory with epoch-NNN.metadata.json, a summary of epochs or train.jsonl"

    def __str__(self) -> str:
        return f"{self.where}: {self.found}, should be a directory with evidence of a training"


@dataclass(eq=False)
class WrongShapeError(EvidenceError):
    """A sealed record that has not the fields of its kind."""

    where: str
    fault: str
    hint: str = "`assay verify` names all that is wrong with it"

    def __str__(self) -> str:
        return f"{self.where}: {self.fault}, should be a record of this kind"


@dataclass(eq=False)
class MalformedEvidenceError(EvidenceError):
    """Somebody's evidence that cannot be read."""

    path: str
    reason: str
    hint = "what could be read was judged; mend the file and audit again"

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}, should be a record that can be read"


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.6g}"
