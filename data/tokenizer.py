"""A byte-level BPE whose decoded tokens are, byte for byte, the text that went in.

There is one special token, the end of text. It is never produced by encoding: a source file that
spells it out is text like any other, and only the caller places document boundaries.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from data.errors import VocabularyTooLargeError, WrongTokenizerError

END_OF_TEXT = "<|endoftext|>"
NUM_BYTES = 256
MIN_VOCAB_SIZE = NUM_BYTES + 1

PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Source: the cl100k_base pattern of OpenAI's tiktoken; digits in groups."""


class Tokenizer:
    """Encodes text to ids and decodes ids to bytes."""

    def __init__(self, path: Path, definition: dict[str, Any]) -> None:
        self.end_of_text_id, self.unk_id, self._bytes_of = _read(path, definition)
        # Without added tokens the engine has no text that it would turn into a special id.
        self._engine = Engine.from_str(json.dumps({**definition, "added_tokens": []}))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load a `tokenizer.json`.

        Raises: WrongTokenizerError.
        """
        try:
            definition = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            found = f"cannot be read ({error})"
            raise WrongTokenizerError(path, found, "a tokenizer.json") from error
        return cls(path, definition)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the end of text included."""
        return len(self._bytes_of)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Encode texts, without any special id."""
        encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> bytes:
        """Decode ids to the bytes they stand for; the end of text stands for none."""
        return b"".join(self._bytes_of[token] for token in ids)

    def token_bytes(self) -> NDArray[np.int64]:
        """Count the bytes that each id stands for.

        Shapes: (V,).
        """
        return np.array([len(piece) for piece in self._bytes_of], dtype=np.int64)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, min_merge_frequency: int) -> str:
    """Train on texts; return the content of a `tokenizer.json`.

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
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    if engine.get_vocab_size() < vocab_size:
        raise VocabularyTooLargeError(vocab_size, engine.get_vocab_size())
    return engine.to_str(pretty=True) + "\n"


def _read(path: Path, definition: dict[str, Any]) -> tuple[int, int | None, list[bytes]]:
    """Check a tokenizer.json and take from it what decoding needs."""
    try:
        model, added = definition["model"], definition["added_tokens"]
        vocab: dict[str, int] = model["vocab"]
        kind, normalizer = model["type"], definition["normalizer"]
        special = {token["content"]: token["id"] for token in added}
        unk_id = vocab.get(model["unk_token"])
    except (KeyError, TypeError) as error:
        raise WrongTokenizerError(path, f"no {error}", "a tokenizer.json") from error
    if kind != "BPE" or normalizer is not None:
        found = f"{kind} with normalizer {normalizer}"
        raise WrongTokenizerError(path, found, "BPE without a normalizer")
    if special != {END_OF_TEXT: vocab.get(END_OF_TEXT)}:
        expected = f"exactly {END_OF_TEXT}, an id of the vocabulary"
        raise WrongTokenizerError(path, f"added tokens are {special}", expected)
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise WrongTokenizerError(path, "ids have gaps", f"0 to {len(vocab) - 1}")
    return special[END_OF_TEXT], unk_id, _bytes_of_ids(path, vocab)


def _bytes_of_ids(path: Path, vocab: dict[str, int]) -> list[bytes]:
    byte_of = _byte_of_character()
    pieces = [b""] * len(vocab)
    for piece, token in vocab.items():
        if piece == END_OF_TEXT:
            continue
        if not set(piece) <= byte_of.keys():
            raise WrongTokenizerError(path, f"token {piece!a}", "characters that stand for bytes")
        pieces[token] = bytes(byte_of[character] for character in piece)
    missing = NUM_BYTES - len({piece for piece in pieces if len(piece) == 1})
    if missing:
        raise WrongTokenizerError(path, f"{missing} bytes have no token", "a token for each byte")
    return pieces


def _byte_of_character() -> dict[str, int]:
    """Invert the printable alphabet in which byte-level tokens are written.

    Source: `bytes_to_unicode` in OpenAI's GPT-2 encoder.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(NUM_BYTES) if byte not in set(printable)]
    characters = {chr(byte): byte for byte in printable}
    return characters | {chr(NUM_BYTES + rank): byte for rank, byte in enumerate(shifted)}
