"""The forward pass that every file of a checkpoint must give again.

It is taken of the tensors before any file is written, kept beside the files, and taken again of
what is read back from each of them.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from evidence.canonical import pretty, read_object
from model.errors import ModelFormatError
from model.llama import LlamaSettings
from model.loss import token_losses
from tasks.errors import UnfaithfulFileError
from tasks.models import build_model

FORWARD = "forward.json"
FEWEST_TOKENS = 2
"One to predict, and one to predict it from."
ALIGNMENT_BYTES = 64
"Of the memory that torch allocates."
REPRODUCED = 1e-3
"Relative difference of a loss that another processor's order of adding explains."

DISTANCE_REPRODUCED = 0.05
"Relative difference of a rounded file's distance that it explains; no distance stays none."


class Kept(TypedDict):
    """What is kept of a file's forward pass."""

    logits_sha256: str
    losses_nats: list[float]
    relative_l2: float


class Record(TypedDict):
    """What is kept of the probe, and of every file."""

    ids: list[list[int]]
    logits_sha256: str
    losses_nats: list[float]
    files: dict[str, Kept]


@dataclass(frozen=True, slots=True)
class Forward:
    """What a model makes of the probe."""

    logits_BTV: Tensor
    losses_nats: tuple[float, ...]

    @property
    def loss_nats(self) -> float:
        """Mean over the probe."""
        return sum(self.losses_nats) / len(self.losses_nats)

    @property
    def sha256(self) -> str:
        """Digest of the logits."""
        return hashlib.sha256(self.logits_BTV.contiguous().numpy().tobytes()).hexdigest()

    def relative_l2(self, reference: "Forward") -> float:
        """Measure the distance to another forward pass."""
        wide = reference.logits_BTV.double()
        return float((self.logits_BTV.double() - wide).norm() / wide.norm())


@torch.inference_mode()
def forward_of(
    settings: LlamaSettings, tensors: Mapping[str, Tensor], ids: list[list[int]]
) -> Forward:
    """Run the probe through a model, on the CPU."""
    ids_BT = torch.tensor(ids)
    logits_BTV = build_model(settings, _aligned(tensors), "cpu")(ids_BT)
    losses = token_losses(logits_BTV[:, :-1], ids_BT[:, 1:]).flatten()
    return Forward(logits_BTV, tuple(losses.tolist()))


def _aligned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what a file holds at an odd address: there, kernels may add in another order."""
    return {
        name: tensor.clone() if tensor.data_ptr() % ALIGNMENT_BYTES else tensor
        for name, tensor in tensors.items()
    }


def require_same(path: Path, found: Forward, expected: Forward) -> None:
    """Refuse a file that does not compute, bit for bit, what its tensors compute.

    Raises: UnfaithfulFileError.
    """
    if found.sha256 != expected.sha256:
        raise UnfaithfulFileError(path, found.loss_nats, expected.loss_nats)


def record_of(
    ids: list[list[int]], reference: Forward, files: Mapping[str, Forward]
) -> dict[str, Any]:
    """Collect what is kept: of the probe, and of every file."""
    return {
        "ids": ids,
        "logits_sha256": reference.sha256,
        "losses_nats": list(reference.losses_nats),
        "files": {
            name: {
                "logits_sha256": forward.sha256,
                "losses_nats": list(forward.losses_nats),
                "relative_l2": forward.relative_l2(reference),
            }
            for name, forward in sorted(files.items())
        },
    }


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """Write what is kept beside the files."""
    (directory / FORWARD).write_bytes(pretty(record))


def read_record(directory: Path) -> Record:
    """Read what was kept of files that are there.

    Raises: MalformedJsonError, ModelFormatError.
    """
    path = directory / FORWARD
    if not path.is_file():
        raise ModelFormatError(path, "missing", "there")
    try:
        record = TypeAdapter(Record).validate_python(read_object(path), strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ModelFormatError(path, f"{place:.60} is wrong", "a forward pass's record") from None
    if len({len(row) for row in record["ids"]}) != 1 or len(record["ids"][0]) < FEWEST_TOKENS:
        expected = f"rows of one length, {FEWEST_TOKENS} or more"
        raise ModelFormatError(path, f"ids are {record['ids']!r:.60}", expected)
    num_targets = sum(len(row) - 1 for row in record["ids"])
    if len(record["losses_nats"]) != num_targets:
        found = f"{len(record['losses_nats'])} losses"
        raise ModelFormatError(path, found, f"{num_targets}, one for each id but the first")
    there = {each.name for each in directory.iterdir() if each.is_file()}
    if not record["files"] or not record["files"].keys() <= there:
        absent = sorted(record["files"].keys() - there)
        raise ModelFormatError(path, f"files lists {absent!r:.60}", "files beside it")
    return record


def require_ids(directory: Path, record: Record, vocab_size: int) -> None:
    """Refuse a record of tokens that the model does not have.

    Raises: ModelFormatError.
    """
    for each in (each for row in record["ids"] for each in row):
        if not 0 <= each < vocab_size:
            raise ModelFormatError(directory / FORWARD, f"id {each}", f"ids below {vocab_size}")


def is_reproduced(forward: Forward, kept: Mapping[str, Any], relative_l2: float) -> bool:
    """Tell whether a forward pass, and its distance to the model's, are what was kept of a file.

    Bits are compared while sealing; another processor adds in another order.
    """
    if not math.isclose(relative_l2, kept["relative_l2"], rel_tol=DISTANCE_REPRODUCED):
        return False
    if forward.sha256 == kept["logits_sha256"]:
        return True
    found = torch.tensor(forward.losses_nats, dtype=torch.float64)
    expected = torch.tensor(kept["losses_nats"], dtype=torch.float64)
    return found.shape == expected.shape and bool(
        ((found - expected).abs() <= REPRODUCED * expected.abs()).all()
    )
