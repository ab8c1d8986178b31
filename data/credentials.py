"""Secrets in source text: keys and tokens whose form gives them away."""

import re

import numpy as np
import pyarrow.compute as pc

from data.filters import Objections, Texts

SECRETS = {
    "aws_access_key": r"AKIA[0-9A-Z]{16}",
    "github_token": r"gh[pousr]_[A-Za-z0-9]{36}",
    "slack_token": r"xox[baprs]-[0-9A-Za-z-]{10,}",
    "google_api_key": r"AIza[0-9A-Za-z_-]{35}",
    "private_key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY",
}


def secrets(texts: Texts) -> Objections:
    """Object to a secret; the detail names its kind and place, and never the secret."""
    found: dict[int, str] = {}
    for kind, pattern in SECRETS.items():
        # One pattern at a time: each begins with letters that the engine jumps to.
        has_one = pc.match_substring_regex(texts.array, pattern).to_numpy(zero_copy_only=False)
        for number in np.flatnonzero(has_one).tolist():
            match = re.search(pattern.encode(), texts.buffer.document(number))
            if match:
                found.setdefault(number, f"{kind} at byte {match.start():,}")
    return found
