"""The tokens on which a model is fingerprinted: the beginning of the first validation row.

What was in memory when a snapshot was written is what must be in memory when it is read.
"""

import json
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


@torch.no_grad()
def probe_loss(model: Llama, ids_BT: Tensor) -> float:
    """Return the mean loss of the probe's tokens, in nats."""
    ids = ids_BT.to(next(model.parameters()).device)
    return token_losses(model(ids[:, :-1]), ids[:, 1:]).mean().item()


def write_fingerprint(model: Llama, ids_BT: Tensor, directory: Path) -> None:
    """Write the digest of every tap of the model as it is in memory, and its loss."""
    device = next(model.parameters()).device
    taps = trace(model, ids_BT.to(device), keep_tensors=False).taps
    found = {tap.site: tap.sha256 for tap in taps}
    (directory / FINGERPRINT).write_text(json.dumps(found, indent=1) + "\n")
    (directory / PROBE).write_text(json.dumps({"loss_nats": probe_loss(model, ids_BT)}) + "\n")


def read_probe_loss(directory: Path) -> float:
    """Read the loss of a model that was in memory."""
    return float(json.loads((directory / PROBE).read_text())["loss_nats"])


def read_fingerprint(directory: Path) -> dict[str, str]:
    """Read the digests of a model that was in memory."""
    found: dict[str, str] = json.loads((directory / FINGERPRINT).read_text())
    return found
