"""An engine that proves, in every unit, that its ids are Hugging Face's.

Documents with a code point that the engine classes otherwise go to Hugging Face itself; of the
others a share does as well, and any difference is an error. Engines stay open for the units that a
process makes later: opening them takes as long as encoding a large unit.

Legend: D documents of a batch.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.encoders import ENGINES, Encoded, Encoder, open_engine
from data.errors import EncoderMismatchError
from data.tokenizer import EngineName, Tokenizer
from data.unicode_classes import CodePointTest

LEAST_CHECKED = 2
"""Documents of a unit that are compared however small their share is, if there are so many."""


class CheckedEncoder:
    """An engine of which every unit proves that its ids are Hugging Face's.

    Used as a context; what the share left out of the least sample is compared as it ends without an
    error.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: EngineName,
        *,
        differing: Iterable[int],
        checked_share: float,
        where: str,
    ) -> None:
        """Open the engine; `where` names the unit, and seeds the sample.

        Raises: UnusableEngineError.
        """
        self._engine = opened(engine, tokenizer.engine_definition)
        self._reference = opened("tokenizers", tokenizer.engine_definition)
        self._is_reference = engine == "tokenizers"
        self._referred = CodePointTest(differing)
        self._sample = _Sample(checked_share, where)
        self._where = where
        self.num_referred = 0
        self.num_checked = 0

    @property
    def name(self) -> str:
        """Name and version of the engine."""
        return self._engine.name

    def __enter__(self) -> "CheckedEncoder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._compare(self._sample.least())

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        """Encode texts without nulls, without any reserved id."""
        encoded = self._engine.encode(texts)
        if self._is_reference:
            return encoded
        referred = self._referred.documents(texts)
        self._compare(self._sample.add(texts, encoded, besides=referred))
        self.num_referred += len(referred)
        if not len(referred):
            return encoded
        theirs = self._reference.encode(texts.take(pa.array(referred)))
        return _replaced(encoded, referred, theirs)

    def _compare(self, sampled: list["_Sampled"]) -> None:
        texts = pa.array([document.text for document in sampled], pa.large_string())
        for document, ids in zip(sampled, self._reference.encode(texts).documents(), strict=True):
            self._require_equal(document, ids)
        self.num_checked += len(sampled)

    def _require_equal(self, document: "_Sampled", expected: NDArray[np.uint32]) -> None:
        if np.array_equal(document.ids, expected):
            return
        shorter = min(len(document.ids), len(expected))
        differs = document.ids[:shorter] != expected[:shorter]
        place = int(differs.argmax()) if differs.any() else shorter
        found_id, expected_id = (
            int(ids[place]) if place < len(ids) else -1 for ids in (document.ids, expected)
        )
        raise EncoderMismatchError(
            self._where, self.name, document.number, place, found_id, expected_id
        )


class _Sampled(NamedTuple):
    key: float
    number: int
    text: str
    ids: NDArray[np.uint32]


class _Sample:
    """A uniform sample of a stream that depends on its content and its name, not on its batches."""

    def __init__(self, share: float, name: str) -> None:
        self._share = share
        self._keys = np.random.default_rng(list(name.encode()))
        self._num_seen = self._num_given = 0
        self._least: list[_Sampled] = []

    def add(
        self, texts: pa.LargeStringArray, encoded: Encoded, *, besides: NDArray[np.int64]
    ) -> list[_Sampled]:
        """Give the share of a batch; remember those with the smallest keys of the rest so far."""
        keys_D = self._keys.random(len(texts))
        keys_D[besides] = np.inf
        ends_D = np.cumsum(encoded.lengths_D)

        def sampled(place: int) -> _Sampled:
            ids = encoded.ids_N[ends_D[place] - encoded.lengths_D[place] : ends_D[place]].copy()
            return _Sampled(keys_D[place], self._num_seen + place, texts[place].as_py(), ids)

        given = [sampled(place) for place in np.flatnonzero(keys_D < self._share).tolist()]
        keys_D[keys_D < self._share] = np.inf
        for place in np.argsort(keys_D)[:LEAST_CHECKED].tolist():
            if keys_D[place] < self._highest():
                insort(self._least, sampled(place), key=attrgetter("key"))
                del self._least[LEAST_CHECKED:]
        self._num_seen += len(texts)
        self._num_given += len(given)
        return given

    def least(self) -> list[_Sampled]:
        """Give what is wanting, now that the stream has ended."""
        return self._least[: max(LEAST_CHECKED - self._num_given, 0)]

    def _highest(self) -> float:
        return self._least[-1].key if len(self._least) == LEAST_CHECKED else np.inf


def opened(engine: EngineName, definition: str) -> Encoder:
    """Open an engine, or return the one that this process has open.

    Raises: UnusableEngineError.
    """
    return _opened(ENGINES[engine], engine, definition)


@lru_cache(maxsize=2)
def _opened(make: Callable[[str], Encoder], engine: EngineName, definition: str) -> Encoder:
    """Keep the engine in use and the reference; another way to make one is another engine."""
    del make
    return open_engine(engine, definition)


def _replaced(encoded: Encoded, numbers: NDArray[np.int64], theirs: Encoded) -> Encoded:
    """Put other ids in the place of some documents' own."""
    ends_D = np.cumsum(encoded.lengths_D)
    pieces, done = [], 0
    for number, ids in zip(numbers.tolist(), theirs.documents(), strict=True):
        pieces += [encoded.ids_N[done : ends_D[number] - encoded.lengths_D[number]], ids]
        done = int(ends_D[number])
    lengths_D = encoded.lengths_D.copy()
    lengths_D[numbers] = theirs.lengths_D
    return Encoded(np.concatenate([*pieces, encoded.ids_N[done:]]), lengths_D)
