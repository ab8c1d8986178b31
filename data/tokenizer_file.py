"""What a `tokenizer.json` must hold to be a byte-level BPE that loses nothing.

Accepted is what gives back every byte: no normalizer, a byte-level pre-tokenizer that removes
nothing, a token for each byte. Refused is what would encode silently otherwise than its file says.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.errors import WrongTokenizerError

END_OF_TEXT = "<|endoftext|>"
NUM_BYTES = 256


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A checked `tokenizer.json`."""

    engine_definition: str
    specials: tuple[str, ...]
    """Those of the added tokens that are declared special."""
    reserved: Mapping[str, int]
    """Added tokens by their text: ids that no text becomes."""
    unk_id: int | None
    pieces: tuple[bytes, ...]
    """The bytes that each id stands for; none for a reserved one."""


def read_tokenizer_file(path: Path) -> TokenizerFile:
    """Read and check a file.

    Raises: WrongTokenizerError.
    """
    try:
        return _read(_File(path.read_bytes(), path))
    except (OSError, ValueError) as error:
        found = f"cannot be read ({error})"
        raise WrongTokenizerError(path, found, "a tokenizer.json") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise WrongTokenizerError(path, f"no {error}", "a tokenizer.json") from error


@dataclass(frozen=True, slots=True)
class _File:
    """Content that may be at several places."""

    content: bytes
    path: Path = field(compare=False)


@lru_cache(maxsize=2)
def _read(file: _File) -> TokenizerFile:
    """Check a file, or return what was found when this process met the same content before.

    Checking takes as long as encoding twenty megabytes, and every stage and unit asks for it.
    """
    return _checked(file.path, json.loads(file.content))


def engine_definition(definition: Mapping[str, Any]) -> str:
    """Leave out of a definition all that is not text to ids.

    Without added tokens an engine has no text that it would turn into a special id; without
    post-processor, truncation and padding it adds nothing and cuts nothing.
    """
    none = {"post_processor": None, "truncation": None, "padding": None}
    return json.dumps({**definition, **none, "added_tokens": []})


def byte_characters() -> list[str]:
    """List the printable character in which each byte is written in byte-level tokens.

    Source: `bytes_to_unicode` in OpenAI's GPT-2 encoder.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(NUM_BYTES) if byte not in set(printable)]
    character_of = {byte: chr(byte) for byte in printable}
    character_of |= {byte: chr(NUM_BYTES + rank) for rank, byte in enumerate(shifted)}
    return [character_of[byte] for byte in range(NUM_BYTES)]


def _checked(path: Path, definition: Mapping[str, Any]) -> TokenizerFile:
    model, added = definition["model"], definition["added_tokens"]
    _require_plain_bpe(path, model, definition["normalizer"])
    _require_lossless(path, definition["pre_tokenizer"])
    reserved = _reserved(path, added)
    vocab: dict[str, int] = model["vocab"]
    ids = {**reserved, **vocab}
    moved = [text for text in reserved if ids[text] != reserved[text]]
    if moved:
        found = f"added token {moved[0]!r} has the ids {reserved[moved[0]]} and {ids[moved[0]]}"
        raise WrongTokenizerError(path, found, "one id a token")
    if sorted(ids.values()) != list(range(len(ids))):
        found = f"{len(ids)} tokens up to id {max(ids.values(), default=-1)}: ids have gaps"
        raise WrongTokenizerError(path, found, f"each id from 0 to {len(ids) - 1} once")
    _require_merges(path, model["merges"], vocab)
    return TokenizerFile(
        engine_definition=engine_definition(definition),
        specials=tuple(str(token["content"]) for token in added if token.get("special")),
        reserved=reserved,
        unk_id=vocab.get(model.get("unk_token")),
        pieces=_pieces(path, vocab, reserved),
    )


def _require_plain_bpe(path: Path, model: Mapping[str, Any], normalizer: object) -> None:
    if model["type"] != "BPE" or normalizer is not None:
        kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
        found = f"{model['type']} with normalizer {kind}"
        expected = "BPE without a normalizer (filters.normalization is the place for NFC)"
        raise WrongTokenizerError(path, found, expected)
    for key in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise WrongTokenizerError(path, f"{key} is {model[key]!r}", "unset")


def _require_lossless(path: Path, pre_tokenizer: Mapping[str, Any] | None) -> None:
    steps = _steps(pre_tokenizer)
    kinds = [step["type"] for step in steps]
    is_last = kinds.count("ByteLevel") == 1 and kinds[-1] == "ByteLevel"
    if not is_last or not set(kinds) <= {"Split", "Digits", "ByteLevel"}:
        found = f"pre-tokenizer {' + '.join(kinds) or 'null'}"
        raise WrongTokenizerError(path, found, "Split and Digits steps, if any, then ByteLevel")
    if any(step.get("behavior") == "Removed" for step in steps):
        raise WrongTokenizerError(path, "pre-tokenizer removes text", "one that keeps all text")
    if steps[-1]["add_prefix_space"]:
        raise WrongTokenizerError(path, "add_prefix_space is true", "false: it adds to the text")


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] != "Sequence":
        return [pre_tokenizer]
    return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]


def _reserved(path: Path, added: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Take the added tokens; one that stands for text would be text that is encoded otherwise."""
    for token in added:
        text = token["content"]
        is_marker = len(text) > 2 and text[0] == "<" and text[-1] == ">"
        if not (token.get("special") or is_marker):
            expected = "declared special, or spelt <...>: other text must have tokens of its own"
            raise WrongTokenizerError(path, f"added token {text!r}", expected)
    return {token["content"]: token["id"] for token in added}


def end_of_text(path: Path, specials: Sequence[str], name: str | None) -> str:
    """Return the special token of this name; without one, the usual or the only special token.

    Raises: WrongTokenizerError.
    """
    wanted = name or (END_OF_TEXT if END_OF_TEXT in specials or len(specials) != 1 else specials[0])
    if wanted not in specials:
        found = f"special tokens are {', '.join(specials) or 'none'}"
        raise WrongTokenizerError(path, found, f"{wanted} among them, as the end of text")
    return wanted


def _require_merges(path: Path, merges: Sequence[Any], vocab: Mapping[str, int]) -> None:
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    # All at once, as there are as many as tokens; one by one only to name what is wrong.
    used = {part for pair in pairs for part in pair} | set(map("".join, pairs))
    are_pairs = all(len(pair) == 2 for pair in pairs)
    if are_pairs and used <= vocab.keys() and len(set(pairs)) == len(pairs):
        return
    seen = set()
    for merge, pair in zip(merges, pairs, strict=True):
        if len(pair) != 2 or any(part not in vocab for part in (*pair, "".join(pair))):
            raise WrongTokenizerError(path, f"merge {merge!a}", "two tokens that make a token")
        if pair in seen:
            raise WrongTokenizerError(path, f"merge {merge!a} twice", "each merge once")
        seen.add(pair)


def _pieces(path: Path, vocab: Mapping[str, int], reserved: Mapping[str, int]) -> tuple[bytes, ...]:
    byte_of = {ord(character): byte for byte, character in enumerate(byte_characters())}
    pieces = [b""] * len({**vocab, **reserved})
    texts = vocab.keys() - reserved.keys()
    if not set(map(ord, set("".join(texts)))) <= byte_of.keys():
        piece = next(text for text in vocab if not set(map(ord, text)) <= byte_of.keys())
        raise WrongTokenizerError(path, f"token {piece!a}", "characters that stand for bytes")
    for piece in texts:
        pieces[vocab[piece]] = piece.translate(byte_of).encode("latin-1")
    missing = NUM_BYTES - len({piece for piece in pieces if len(piece) == 1})
    if missing:
        raise WrongTokenizerError(path, f"{missing} bytes have no token", "a token for each byte")
    return tuple(pieces)
