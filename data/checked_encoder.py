"""An engine that proves, in every unit, that its ids are Hugging Face's.

Documents with a code point that the engine classes otherwise go to Hugging Face itself; of the
others a sample does as well, and any difference is an error.

Legend: D documents of a batch.
"""

from bisect import insort
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.encoders import Encoded, open_engine
from data.errors import EncoderMismatchError
from data.tokenizer import EngineName, Tokenizer
from data.unicode_classes import CodePointTest


class CheckedEncoder:
    """An engine of which every unit proves that its ids are Hugging Face's.

    Used as a context; the sample is compared as it ends without an error.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: EngineName,
        *,
        differing: Iterable[int],
        checked_documents: int,
        where: str,
    ) -> None:
        """Open the engine; `where` names the unit, and seeds the sample.

        Raises: UnusableEngineError.
        """
        self._engine = open_engine(engine, tokenizer.engine_definition)
        self._reference = open_engine("tokenizers", tokenizer.engine_definition)
        self._is_reference = engine == "tokenizers"
        self._referred = CodePointTest(differing)
        self._sample = _Sample(checked_documents, where)
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
            self._compare()

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        """Encode texts without nulls, without any reserved id."""
        encoded = self._engine.encode(texts)
        if self._is_reference:
            return encoded
        referred = self._referred.documents(texts)
        self._sample.add(texts, encoded, besides=referred)
        self.num_referred += len(referred)
        if not len(referred):
            return encoded
        theirs = self._reference.encode(texts.take(pa.array(referred)))
        return _replaced(encoded, referred, theirs)

    def _compare(self) -> None:
        sampled = self._sample.documents
        texts = pa.array([document.text for document in sampled], pa.large_string())
        for document, ids in zip(sampled, self._reference.encode(texts).documents(), strict=True):
            self._require_equal(document, ids)
        self.num_checked = len(sampled)

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

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._keys = np.random.default_rng(list(name.encode()))
        self._num_seen = 0
        self.documents: list[_Sampled] = []

    def add(
        self, texts: pa.LargeStringArray, encoded: Encoded, *, besides: NDArray[np.int64]
    ) -> None:
        """Keep those documents of a batch that have the smallest keys so far."""
        keys_D = self._keys.random(len(texts))
        keys_D[besides] = np.inf
        ends_D = np.cumsum(encoded.lengths_D)
        for place in np.argsort(keys_D)[: self._size].tolist():
            if keys_D[place] >= self._highest():
                break
            ids = encoded.ids_N[ends_D[place] - encoded.lengths_D[place] : ends_D[place]].copy()
            number, text = self._num_seen + place, texts[place].as_py()
            insort(
                self.documents, _Sampled(keys_D[place], number, text, ids), key=attrgetter("key")
            )
            del self.documents[self._size :]
        self._num_seen += len(texts)

    def _highest(self) -> float:
        return self.documents[-1].key if len(self.documents) == self._size else np.inf


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
