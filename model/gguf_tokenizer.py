"""A byte-level BPE in the words of GGUF.

llama.cpp does not read how a tokenizer splits text; it knows some ways by name. A tokenizer gets
the name of the way that is its own, or is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.architecture import parse_tokenizer
from model.errors import ModelFormatError
from model.gguf_values import Array, Metadata, Scalar, Value, ValueKind
from model.llama import LlamaSettings

END_OF_TEXT = "<|endoftext|>"
NORMAL, CONTROL = 1, 3
"""Types of tokens; text never becomes one of the second."""

SPLIT_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT_QWEN2 = SPLIT_CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
SPLIT_NAMES = {
    (("Split", SPLIT_CL100K), ("ByteLevel", "false")): ("dbrx", "llama-bpe"),
    (("Split", SPLIT_QWEN2), ("ByteLevel", "false")): ("qwen2", None),
    (("ByteLevel", "true"),): ("gpt-2", None),
    (("Digits", "true"), ("ByteLevel", "true")): ("starcoder", None),
}
"""Steps to llama.cpp's names: where words are merged, and where a known word is taken as it is."""


def tokenizer_metadata(
    path: Path, settings: LlamaSettings, tokenizer_json: str
) -> dict[str, Value]:
    """Describe a tokenizer, for llama.cpp to give the same ids.

    Raises: ModelFormatError if it would not.
    """
    tokenizer = parse_tokenizer(path, settings, tokenizer_json)
    definition = json.loads(tokenizer.to_str())
    model, added = definition["model"], tokenizer.get_added_tokens_decoder()
    if model["type"] != "BPE" or definition["normalizer"] is not None:
        found = f"tokenizer of type {model['type']}, normalizer {definition['normalizer']!r:.60}"
        raise ModelFormatError(path, found, "BPE without a normalizer")
    ids = tokenizer.get_vocab(with_added_tokens=True)
    merges = [" ".join(pair) for pair in model["merges"]]
    if any(merge.count(" ") != 1 for merge in merges):
        wrong = next(merge for merge in merges if merge.count(" ") != 1)
        raise ModelFormatError(path, f"merge {wrong!r}", "two tokens without a space in them")
    types = np.array([CONTROL if number in added else NORMAL for number in range(len(ids))])
    end_id = _end_id(path, {t.content: n for n, t in added.items() if t.special})
    return {
        "tokenizer.ggml.model": Scalar(ValueKind.STRING, "gpt2"),
        "tokenizer.ggml.pre": Scalar(ValueKind.STRING, _split_name(path, definition)),
        "tokenizer.ggml.tokens": Array(ValueKind.STRING, sorted(ids, key=ids.__getitem__)),
        "tokenizer.ggml.token_type": Array(ValueKind.I32, types),
        "tokenizer.ggml.merges": Array(ValueKind.STRING, merges),
        "tokenizer.ggml.bos_token_id": Scalar(ValueKind.U32, end_id),
        "tokenizer.ggml.eos_token_id": Scalar(ValueKind.U32, end_id),
        "tokenizer.ggml.add_bos_token": Scalar(ValueKind.BOOL, value=False),
        "tokenizer.ggml.add_eos_token": Scalar(ValueKind.BOOL, value=False),
        "assay.tokenizer_sha256": Scalar(
            ValueKind.STRING, hashlib.sha256(tokenizer_json.encode()).hexdigest()
        ),
    }


def require_tokenizer(path: Path, settings: LlamaSettings, metadata: Metadata) -> None:
    """Refuse a tokenizer whose ids are not exactly the rows of the embedding.

    Raises: ModelFormatError.
    """
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        value = metadata.get(key)
        if value is not None and not _has_length(value, settings.vocab_size):
            fact = f"{len(value.values)} items" if isinstance(value, Array) else "no list"
            expected = f"one item for each of {settings.vocab_size} tokens"
            raise ModelFormatError(path, f"{key} has {fact}", expected)
    for key, value in metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            number = value.value if isinstance(value, Scalar) else None
            if type(number) is not int or not 0 <= number < settings.vocab_size:
                expected = f"an id below {settings.vocab_size}"
                raise ModelFormatError(path, f"{key} is {number!r:.60}", expected)


def _has_length(value: Value, length: int) -> bool:
    return isinstance(value, Array) and len(value.values) == length


def _end_id(path: Path, specials: Mapping[str, int]) -> int:
    """Choose what ends a text, and so begins the next; llama.cpp takes id 11 if it is not told."""
    if END_OF_TEXT in specials:
        return specials[END_OF_TEXT]
    if len(specials) == 1:
        return next(iter(specials.values()))
    found = f"special tokens {', '.join(specials) or 'none'}"
    raise ModelFormatError(path, found, f"{END_OF_TEXT} among them, or one only")


def _split_name(path: Path, definition: Mapping[str, Any]) -> str:
    """Name the way in which llama.cpp splits text as this tokenizer does."""
    steps = _steps(definition["pre_tokenizer"])
    takes_whole_words = bool(definition["model"].get("ignore_merges"))
    name = SPLIT_NAMES.get(steps, (None, None))[takes_whole_words]
    if name is None:
        kinds = " + ".join(f"{kind} {detail:.40}" for kind, detail in steps) or "none"
        found = f"pre-tokenizer {kinds}" + (" with ignore_merges" if takes_whole_words else "")
        known = ", ".join(name for pair in SPLIT_NAMES.values() for name in pair if name)
        raise ModelFormatError(path, found, f"one that llama.cpp has: {known}")
    return name


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """List the steps of a pre-tokenizer, each with what tells it from others of its kind."""
    if pre_tokenizer is None:
        return ()
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        parts = map(_steps, pre_tokenizer["pretokenizers"])
        return tuple(step for part in parts for step in part)
    rest = {key: value for key, value in pre_tokenizer.items() if key not in BESIDES}
    detail = rest.pop(DETAILS.get(kind, kind), None)
    if rest != PLAIN.get(kind):
        return ((kind, json.dumps(pre_tokenizer, sort_keys=True)),)
    is_regex = isinstance(detail, dict) and list(detail) == ["Regex"]
    return ((kind, detail["Regex"] if is_regex else json.dumps(detail)),)


DETAILS = {"Split": "pattern", "ByteLevel": "use_regex", "Digits": "individual_digits"}
PLAIN = {
    "Split": {"type": "Split", "behavior": "Isolated", "invert": False},
    "ByteLevel": {"type": "ByteLevel", "add_prefix_space": False},
    "Digits": {"type": "Digits"},
}
BESIDES = ("trim_offsets",)
"""What plays no part in ids."""
