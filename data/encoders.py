"""Engines that turn text into ids.

All engines read the same definition and give the same ids, apart from code points that were classed
after their Unicode tables were made. What follows from that is the business of the checked encoder.

Legend: D documents of a batch, N tokens of a batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFace

from data.errors import UnusableEngineError
from data.tokenizer import EngineName, Tokenizer
from data.unicode_classes import (
    LAST_ASKED,
    asked_code_points,
    letter_probes,
    probe_definition,
    probes,
    text_buffers,
    unicode_version,
)

MAX_CACHE_BYTES = 256 * 2**20
"""Growth of the process after which an engine with an unbounded cache is made anew."""


class Encoded(NamedTuple):
    """Ids of documents, one document after the other.

    Shapes: `ids_N` (N,), `lengths_D` (D,).
    """

    ids_N: NDArray[np.uint32]
    lengths_D: NDArray[np.int64]

    def documents(self) -> Iterator[NDArray[np.uint32]]:
        """View the ids of each document."""
        ends_D = np.cumsum(self.lengths_D)
        for start, end in zip((ends_D - self.lengths_D).tolist(), ends_D.tolist(), strict=True):
            yield self.ids_N[start:end]

    def ended(self, end_of_text_id: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Put the end of text after each document, in the width of a token file.

        Shapes: (N + D,).
        """
        ends_D = np.cumsum(self.lengths_D) + np.arange(len(self.lengths_D))
        is_text = np.ones(len(self.ids_N) + len(self.lengths_D), dtype=np.bool_)
        is_text[ends_D] = False
        ids = np.full(len(is_text), end_of_text_id, dtype=dtype)
        ids[is_text] = self.ids_N
        return ids


class Encoder(Protocol):
    """An engine with a tokenizer in it."""

    @property
    def name(self) -> str:
        """Name and version of the engine."""

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        """Encode texts without nulls, without any reserved id."""


class HuggingFaceEncoder:
    """The engine that says what is right."""

    def __init__(self, definition: str) -> None:
        self.name = f"tokenizers {version('tokenizers')}"
        self._engine = HuggingFace.from_str(definition)

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        """Encode texts without nulls, without any reserved id."""
        found = self._engine.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        return joined([np.array(encoding.ids, dtype=np.uint32) for encoding in found])


class GigatokenEncoder:
    """The fastest engine; it borrows the text from Arrow and uses no thread pool."""

    def __init__(self, definition: str) -> None:
        self.name = f"gigatoken {version('gigatoken')}"
        self._awkward = import_module("awkward")
        self._make: Callable[[str], Any] = import_module("gigatoken").Tokenizer.from_json
        self._definition = definition
        self._engine = self._make(definition)
        self._grown_bytes = 0

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        """Encode texts without nulls, without any reserved id."""
        if not len(texts):
            return joined([])
        self._bound_cache()
        before_bytes = _resident_bytes()
        found = self._engine.encode_batch(self._view(texts), parallel=False).layout
        ids_N = np.asarray(found.content.data)
        self._grown_bytes += max(0, _resident_bytes() - before_bytes - ids_N.nbytes)
        starts_D = np.asarray(found.offsets.data).astype(np.int64, copy=False)
        return Encoded(ids_N[starts_D[0] : starts_D[-1]], np.diff(starts_D))

    def _view(self, texts: pa.LargeStringArray) -> Any:
        starts_D, content = text_buffers(texts)
        contents, index = self._awkward.contents, self._awkward.index
        characters = contents.NumpyArray(content, parameters={"__array__": "char"})
        strings = {"__array__": "string"}
        layout = contents.ListOffsetArray(index.Index64(starts_D), characters, parameters=strings)
        return self._awkward.Array(layout)

    def _bound_cache(self) -> None:
        # Its cache of words has no bound; text without repetition makes it ten times the text.
        if self._grown_bytes > MAX_CACHE_BYTES:
            self._engine = None
            self._engine = self._make(self._definition)
            self._grown_bytes = 0


class FastokensEncoder:
    """A second fast engine; it has threads of its own for long texts."""

    def __init__(self, definition: str) -> None:
        self.name = f"fastokens {version('fastokens')}"
        self._engine = import_module("fastokens").Tokenizer.from_json_str(definition)

    def encode(self, texts: pa.LargeStringArray) -> Encoded:
        """Encode texts without nulls, without any reserved id."""
        # One text a call: a batch is handed to threads, which costs a third more processor time.
        flat = (self._engine.encode_batch_flat([text])[0] for text in texts.to_pylist())
        return joined([np.frombuffer(ids, dtype=np.uint32) for ids in flat])


ENGINES: Mapping[EngineName, Callable[[str], Encoder]] = {
    "gigatoken": GigatokenEncoder,
    "fastokens": FastokensEncoder,
    "tokenizers": HuggingFaceEncoder,
}


def open_engine(engine: EngineName, definition: str) -> Encoder:
    """Open an engine with a tokenizer's `engine_definition`.

    Raises: UnusableEngineError.
    """
    try:
        return ENGINES[engine](definition)
    except (ImportError, PackageNotFoundError) as error:
        expected = f"installed (pip install {engine})"
        raise UnusableEngineError(engine, f"not installed ({error})", expected) from error
    except Exception as error:
        # The engines raise ValueError, RuntimeError or bare Exception for what they cannot do.
        found = f"refuses the tokenizer ({str(error).splitlines()[0]:.200})"
        raise UnusableEngineError(engine, found, "able to use it") from error


def differing_code_points(engine: EngineName, definition: str) -> tuple[int, ...]:
    """Ask an engine and Hugging Face about code points; return those they split differently.

    It takes two seconds, hence it is asked once for a tokenizer, not in every unit. It depends on
    the engines' versions and the pre-tokenizer alone.

    Raises: UnusableEngineError.
    """
    return () if engine == "tokenizers" else _differing_points(engine, probe_definition(definition))


@cache
def _differing_points(engine: EngineName, probe: str) -> tuple[int, ...]:
    # The answer depends on the pre-tokenizer alone: the probe has no other part of the tokenizer.
    ours, theirs = open_engine(engine, probe), open_engine("tokenizers", probe)
    groups = _differing(ours, theirs, asked_code_points())
    points = [(point,) for group in groups for point in group]
    return tuple(point for (point,) in _differing(ours, theirs, points))


def describe(engine: EngineName, tokenizer: Tokenizer, differing: Iterable[int]) -> dict[str, Any]:
    """Say which engines encode, in which versions, and where their Unicode tables differ.

    Raises: UnusableEngineError.
    """
    probe = probe_definition(tokenizer.engine_definition)
    asked, reference = open_engine(engine, probe), open_engine("tokenizers", probe)
    return {
        "engine": asked.name,
        "engine_unicode": unicode_version(list(asked.encode(letter_probes()).documents())),
        "reference": reference.name,
        "reference_unicode": unicode_version(list(reference.encode(letter_probes()).documents())),
        "num_differing_code_points": len(tuple(differing)),
        "last_code_point_asked": LAST_ASKED,
    }


def _differing(
    ours: Encoder, theirs: Encoder, groups: Sequence[Sequence[int]]
) -> list[Sequence[int]]:
    texts = probes(groups)
    pairs = zip(ours.encode(texts).documents(), theirs.encode(texts).documents(), strict=True)
    return [group for group, pair in zip(groups, pairs, strict=True) if not np.array_equal(*pair)]


def joined(documents: Iterable[NDArray[np.uint32]]) -> Encoded:
    """Lay documents one after the other."""
    documents = list(documents)
    lengths_D = np.array([len(ids) for ids in documents], dtype=np.int64)
    return Encoded(np.concatenate([np.empty(0, np.uint32), *documents]), lengths_D)


def _resident_bytes() -> int:
    """Read how much memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
