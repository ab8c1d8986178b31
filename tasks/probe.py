"""The tokens on which a model is fingerprinted: the beginning of the first validation row."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from data.rows import Rows
from model.llama import Llama
from model.taps import trace

PROBE_TOKENS = 64
FINGERPRINT = "fingerprint.json"


def probe_ids(rows: Rows) -> Tensor:
    """Return the probe.

    Shapes: (1, T), T being the context or the probe's length, whichever is shorter.
    """
    return torch.from_numpy(rows.ids([0])[:, : min(PROBE_TOKENS, rows.row_tokens - 1)])


def fingerprint(model: Llama, ids_BT: Tensor) -> dict[str, str]:
    """Compute the digest of every tap of the model as it is in memory."""
    device = next(model.parameters()).device
    taps = trace(model, ids_BT.to(device), keep_tensors=False).taps
    return {tap.site: tap.sha256 for tap in taps}


def save_fingerprint(digests: Mapping[str, str], directory: Path) -> None:
    """Write digests where `read_fingerprint` finds them."""
    (directory / FINGERPRINT).write_text(json.dumps(digests, indent=1) + "\n")


def read_fingerprint(directory: Path) -> dict[str, str]:
    """Read the digests of a model that was in memory."""
    found: dict[str, str] = json.loads((directory / FINGERPRINT).read_text())
    return found
