"""A byte-level BPE whose decoded tokens are, byte for byte, the text that went in.

Special tokens are never produced by encoding: a source file that spells one out is text like any
other, and only the caller places document boundaries.

Legend: D documents, N tokens, V ids of the vocabulary.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from data import tokenizer_file
from data.bounds import at_least, share
from data.errors import TokenOutOfRangeError, VocabularyTooLargeError, WrongSettingError
from data.tokenizer_file import (
    END_OF_TEXT,
    NUM_BYTES,
    TokenizerFile,
    read_tokenizer_file,
)

EngineName = Literal["gigatoken", "fastokens", "tokenizers"]

TOKENIZER = "tokenizer.json"
"""The file of a tokenizer in every directory that has one."""

PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Source: the cl100k_base pattern of OpenAI's tiktoken; digits in groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """Where the tokenizer comes from, and what encodes with it."""

    kind: Literal["train", "import"]
    path: str
    """The file that is imported."""
    vocab_size: int
    min_merge_frequency: int
    sample_bytes: int
    """Text of the training side that the tokenizer is trained on, at most."""
    sample_seed: int
    specials: tuple[str, ...]
    """The end of text first; of an import, the end of text alone."""
    engine: EngineName
    checked_share: float
    """Share of the documents that Hugging Face encodes again, to compare; two a unit at least."""

    def __post_init__(self) -> None:
        if self.kind not in ("train", "import"):
            raise WrongSettingError("tokenizer.kind", self.kind, "train or import")
        if self.engine not in get_args(EngineName):
            expected = f"one of {', '.join(get_args(EngineName))}"
            raise WrongSettingError("tokenizer.engine", self.engine, expected)
        share("tokenizer.checked_share", self.checked_share)
        at_least("tokenizer.sample_seed", self.sample_seed, 0)
        _require_specials(self.specials)
        (self._require_training if self.kind == "train" else self._require_import)()

    def _require_training(self) -> None:
        if self.path:
            raise WrongSettingError("tokenizer.path", self.path, "'' for kind train")
        least = NUM_BYTES + len(self.specials)
        at_least("tokenizer.vocab_size", self.vocab_size, least)
        at_least("tokenizer.min_merge_frequency", self.min_merge_frequency, 1)
        at_least("tokenizer.sample_bytes", self.sample_bytes, 1)

    def _require_import(self) -> None:
        if not self.path:
            raise WrongSettingError("tokenizer.path", self.path, "a file for kind import")
        at_least("tokenizer.vocab_size", self.vocab_size, NUM_BYTES + 1)
        for name in ("min_merge_frequency", "sample_bytes", "sample_seed"):
            if getattr(self, name) != 0:
                found = getattr(self, name)
                raise WrongSettingError(f"tokenizer.{name}", found, "0 for kind import")
        if len(self.specials) > 1:
            expected = "the end of text alone for kind import"
            raise WrongSettingError("tokenizer.specials", self.specials, expected)


class Tokenizer:
    """Encodes text to ids and decodes ids to bytes."""

    def __init__(self, path: Path, file: TokenizerFile, end_of_text: str) -> None:
        self.path = path
        self.end_of_text = end_of_text
        self.end_of_text_id = file.reserved[end_of_text]
        self.reserved = file.reserved
        self.unk_id = file.unk_id
        self.engine_definition = file.engine_definition
        self._pieces = file.pieces

    @classmethod
    def load(cls, path: Path, end_of_text: str | None = None) -> "Tokenizer":
        """Load a `tokenizer.json`; the end of text is the usual or the only special token.

        Raises: WrongTokenizerError.
        """
        file = read_tokenizer_file(path)
        return cls(path, file, tokenizer_file.end_of_text(path, file.specials, end_of_text))

    @property
    def vocab_size(self) -> int:
        """Number of ids, the reserved ones included."""
        return len(self._pieces)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Encode texts with Hugging Face, without any reserved id."""
        encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> bytes:
        """Decode ids to the bytes they stand for; a reserved id stands for none."""
        return b"".join(self._pieces[token] for token in ids)

    def decode_batch(
        self, ids_N: NDArray[np.integer[Any]], lengths_D: NDArray[np.int64]
    ) -> pa.LargeBinaryArray:
        """Decode documents that lie one after the other, each of so many ids.

        Shapes: (N,), (D,) -> D byte strings.
        Raises: TokenOutOfRangeError.
        """
        if len(ids_N) and int(ids_N.max()) >= self.vocab_size:
            raise TokenOutOfRangeError(str(self.path), int(ids_N.max()), self.vocab_size)
        pieces_N = self._arrow_pieces.take(pa.array(ids_N))
        _, offsets, content = pieces_N.buffers()
        ends_D = np.concatenate(([0], np.cumsum(lengths_D)))
        starts = pa.py_buffer(np.frombuffer(offsets, dtype=np.int64)[ends_D])
        buffers = [None, starts, content]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lengths_D), buffers)

    def text_sha256(self, ids_N: NDArray[np.integer[Any]]) -> str:
        """Digest the text of one document.

        Shapes: (N,).
        Raises: TokenOutOfRangeError.
        """
        (text,) = self.decode_batch(ids_N, np.array([len(ids_N)]))
        return hashlib.sha256(text.as_buffer()).hexdigest()

    def token_bytes(self) -> NDArray[np.int64]:
        """Count the bytes that each id stands for.

        Shapes: (V,).
        """
        return np.array([len(piece) for piece in self._pieces], dtype=np.int64)

    @cached_property
    def _engine(self) -> Engine:
        return Engine.from_str(self.engine_definition)

    @cached_property
    def _arrow_pieces(self) -> pa.LargeBinaryArray:
        return pa.array(self._pieces, pa.large_binary())


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_merge_frequency: int,
    specials: Sequence[str] = (END_OF_TEXT,),
) -> str:
    """Train on texts; return the content of a `tokenizer.json`, special tokens first.

    Raises: VocabularyTooLargeError.
    """
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZER), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_merge_frequency,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    if engine.get_vocab_size() < vocab_size:
        raise VocabularyTooLargeError(vocab_size, engine.get_vocab_size())
    return engine.to_str(pretty=True) + "\n"


def _require_specials(specials: tuple[str, ...]) -> None:
    expected = "one or more different texts of printable characters, the end of text first"
    are_texts = all(isinstance(name, str) and name.isprintable() and name for name in specials)
    if not specials or not are_texts or len(set(specials)) < len(specials):
        raise WrongSettingError("tokenizer.specials", specials, expected)
