"""What every tokenizer must do before a corpus is encoded with it.

A token for each byte is a condition of loading one; the rest is tried out here.

Legend: D texts, N tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.encoders import HuggingFaceEncoder
from data.errors import TokenizerGateError
from data.tokenizer import Tokenizer

SURROGATES = range(0xD800, 0xE000)
NUM_CODE_POINTS = 0x110000
ALL_BELOW = 0x20000
STEP_ABOVE = 997
CODE_POINTS_A_TEXT = 1024
SPELT_OUT = ("{0}", 'end = "{0}"\n', "# {0}{0} {0}x\n", "{0}\r\n{0}", "x{0}y")
"""Source code in which somebody wrote the text of a special token."""
TEXTS_A_BATCH = 1000


@dataclass(frozen=True, slots=True)
class TokenizerProof:
    """What was tried; a tokenizer that failed any of it raised an error instead."""

    num_round_trips: int
    num_round_trip_bytes: int
    num_code_points: int
    num_spelt_out: int


def prove_tokenizer(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenizerProof:
    """Try out texts, every code point and the literal text of every reserved token.

    Raises: TokenizerGateError.
    """
    code_points, num_code_points = _code_point_texts()
    spelt_out = [form.format(token) for token in tokenizer.reserved for form in SPELT_OUT]
    encoder = HuggingFaceEncoder(tokenizer.engine_definition)
    _try(tokenizer, encoder, "every code point", code_points)
    _try(tokenizer, encoder, "special token spelt out", spelt_out)
    _require_determinism(tokenizer, encoder, [*code_points, *spelt_out])
    num_round_trips = num_bytes = 0
    for batch in _batched(texts):
        num_bytes += _try(tokenizer, encoder, "round trip", batch)
        num_round_trips += len(batch)
    return TokenizerProof(num_round_trips, num_bytes, num_code_points, len(spelt_out))


def _try(tokenizer: Tokenizer, encoder: HuggingFaceEncoder, gate: str, batch: Sequence[str]) -> int:
    ids_N, lengths_D = encoder.encode(pa.array(batch, pa.large_string()))
    _refuse_reserved(tokenizer, gate, ids_N)
    for text, found in zip(
        batch, tokenizer.decode_batch(ids_N, lengths_D).to_pylist(), strict=True
    ):
        if text.encode() != found:
            said = f"{text[:40]!a} comes back as {found[:40]!r}"
            raise TokenizerGateError(tokenizer.path, gate, said, "the same bytes")
    return sum(len(text.encode()) for text in batch)


def _refuse_reserved(tokenizer: Tokenizer, gate: str, ids_N: NDArray[np.uint32]) -> None:
    refused = dict(tokenizer.reserved)
    if tokenizer.unk_id is not None:
        refused["the unknown token"] = tokenizer.unk_id
    for name, token in refused.items():
        if (ids_N == token).any():
            raise TokenizerGateError(tokenizer.path, gate, f"text becomes {name}", "its bytes")


def _require_determinism(
    tokenizer: Tokenizer, encoder: HuggingFaceEncoder, texts: Sequence[str]
) -> None:
    """Compare with a second engine that has encoded nothing yet, and meets the texts backwards."""
    forwards = encoder.encode(pa.array(texts, pa.large_string())).documents()
    backwards = HuggingFaceEncoder(tokenizer.engine_definition).encode(
        pa.array(texts[::-1], pa.large_string())
    )
    for text, ids, again in zip(texts, forwards, list(backwards.documents())[::-1], strict=True):
        if not np.array_equal(ids, again):
            said = f"{text[:40]!a} has other ids the second time"
            raise TokenizerGateError(tokenizer.path, "determinism", said, "the same ids")


def _code_point_texts() -> tuple[list[str], int]:
    """Write out every code point of the two planes in use, and a share of all others."""
    points = [*range(ALL_BELOW), *range(ALL_BELOW, NUM_CODE_POINTS, STEP_ABOVE)]
    valid = [chr(point) for point in points if point not in SURROGATES]
    groups = range(0, len(valid), CODE_POINTS_A_TEXT)
    return ["".join(valid[first : first + CODE_POINTS_A_TEXT]) for first in groups], len(valid)


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, TEXTS_A_BATCH)):
        yield batch
