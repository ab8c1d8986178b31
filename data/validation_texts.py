"""The texts of the validation documents, as the tokens give them back."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.documents import DOCUMENTS, read_pieces
from data.pretokenize import TokensIndex
from data.token_files import TokenReader
from data.tokenizer import TOKENIZER, Tokenizer

_COLUMNS = ["sha256", "num_bytes", "num_tokens", "split"]


def validation_texts(tokens: Path, index: TokensIndex, max_bytes: int) -> list[bytes]:
    """Decode validation documents of a tokens directory, the first in the order of their digests.

    As many as have `max_bytes` together, but one at least.
    """
    tokenizer = Tokenizer.load(tokens / TOKENIZER)
    reader = TokenReader(tokens, index.token_files, index.dtype)
    table = _held_out(tokens)
    ends = np.cumsum(table["num_bytes"].to_numpy())
    num_chosen = max(int(np.searchsorted(ends, max_bytes, side="right")), 1)
    places = zip(*(table[name].to_pylist() for name in ("start", "num_tokens")), strict=True)
    return [
        tokenizer.decode(reader.read(start, num_tokens).tolist())
        for start, num_tokens in list(places)[:num_chosen]
    ]


def _held_out(tokens: Path) -> pa.Table:
    """List the validation documents by digest, with where each begins in the token stream."""
    found, total = [], 0
    for piece in read_pieces(tokens / DOCUMENTS, _COLUMNS):
        ends = total + np.cumsum(piece["num_tokens"].to_numpy())
        starts = pa.array(ends - piece["num_tokens"].to_numpy())
        total = int(ends[-1])
        is_val = pc.equal(piece["split"], "val")
        found.append(pa.Table.from_batches([piece]).append_column("start", starts).filter(is_val))
    return pa.concat_tables(found).sort_by("sha256")
