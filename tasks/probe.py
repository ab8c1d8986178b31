"""The tokens on which a model is fingerprinted: the beginning of the first validation row.

What was in memory when a snapshot was written is what must be in memory when it is read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.rows import Rows
from model.llama import Llama
from model.loss import token_losses
from model.taps import trace

PROBE_TOKENS = 64
FINGERPRINT = "fingerprint.json"
PROBE = "probe.json"


def probe_ids(rows: Rows) -> Tensor:
    """Return the probe.

    Shapes: (1, T), T being the context or the probe's length, whichever is shorter.
    """
    return torch.from_numpy(rows.ids([0])[:, : min(PROBE_TOKENS, rows.row_tokens - 1)])


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a model does to the probe."""

    digests: Mapping[str, str]
    "Of every tap."
    loss_nats: float

    @classmethod
    def of(cls, model: Llama, ids_BT: Tensor) -> "Fingerprint":
        """Take the fingerprint of the model as it is in memory."""
        device = next(model.parameters()).device
        taps = trace(model, ids_BT.to(device), keep_tensors=False).taps
        return cls({tap.site: tap.sha256 for tap in taps}, probe_loss(model, ids_BT))

    def write(self, directory: Path) -> None:
        """Write both, the same bytes for the same model."""
        (directory / FINGERPRINT).write_text(json.dumps(self.digests, indent=1) + "\n")
        (directory / PROBE).write_text(json.dumps({"loss_nats": self.loss_nats}) + "\n")


@torch.no_grad()
def probe_loss(model: Llama, ids_BT: Tensor) -> float:
    """Return the mean loss of the probe's tokens, in nats."""
    ids = ids_BT.to(next(model.parameters()).device)
    return token_losses(model(ids[:, :-1]), ids[:, 1:]).mean().item()


def read_probe_loss(directory: Path) -> float:
    """Read the loss of a model that was in memory."""
    return float(json.loads((directory / PROBE).read_text())["loss_nats"])


def read_fingerprint(directory: Path) -> dict[str, str]:
    """Read the digests of a model that was in memory."""
    found: dict[str, str] = json.loads((directory / FINGERPRINT).read_text())
    return found
