"""GGUF files spelt out byte by byte, so that each can be wrong in one place."""

import struct
from dataclasses import dataclass

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LAYOUTS = {U8: "<B", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", F64: "<d"}


def text(raw: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(raw) if length is None else length) + raw


@dataclass(frozen=True)
class Key:
    name: bytes
    kind: int
    value: bytes

    def encode(self) -> bytes:
        return text(self.name) + struct.pack("<I", self.kind) + self.value


def number(name: str, kind: int, value: float) -> Key:
    whole = value if kind in (F32, F64) else int(value)
    return Key(name.encode(), kind, struct.pack(LAYOUTS[kind], whole))


def words(name: str, value: str) -> Key:
    return Key(name.encode(), STRING, text(value.encode()))


def array(name: str, kind: int, items: bytes, count: int) -> Key:
    return Key(name.encode(), ARRAY, struct.pack("<IQ", kind, count) + items)


@dataclass(frozen=True)
class Entry:
    """The description of a tensor; dimensions with the shortest stride first."""

    name: bytes = b"w"
    dimensions: tuple[int, ...] = (2,)
    type: int = 0
    offset: int = 0
    num_dimensions: int | None = None

    def encode(self) -> bytes:
        num_dims = len(self.dimensions) if self.num_dimensions is None else self.num_dimensions
        place = struct.pack(
            f"<I{len(self.dimensions)}QIQ", num_dims, *self.dimensions, self.type, self.offset
        )
        return text(self.name) + place


@dataclass(frozen=True)
class Recipe:
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_keys: int | None = None
    keys: tuple[Key, ...] = (words("general.architecture", "other"),)
    entries: tuple[Entry, ...] = (Entry(),)
    padding: bytes = b"\0"
    alignment: int = 32
    data: bytes = bytes(32)


def build(recipe: Recipe) -> bytes:
    counts = (
        len(recipe.entries) if recipe.num_tensors is None else recipe.num_tensors,
        len(recipe.keys) if recipe.num_keys is None else recipe.num_keys,
    )
    front = recipe.magic + struct.pack("<IQQ", recipe.version, *counts)
    front += b"".join(key.encode() for key in recipe.keys)
    front += b"".join(entry.encode() for entry in recipe.entries)
    return front + recipe.padding * (-len(front) % recipe.alignment) + recipe.data


GOOD = Recipe()

LLAMA_KEYS = {
    "general.architecture": words("general.architecture", "llama"),
    "llama.context_length": number("llama.context_length", U32, 8),
    "llama.embedding_length": number("llama.embedding_length", U32, 4),
    "llama.block_count": number("llama.block_count", U32, 1),
    "llama.feed_forward_length": number("llama.feed_forward_length", U32, 8),
    "llama.attention.head_count": number("llama.attention.head_count", U32, 2),
    "llama.attention.head_count_kv": number("llama.attention.head_count_kv", U32, 1),
    "llama.attention.layer_norm_rms_epsilon": number(
        "llama.attention.layer_norm_rms_epsilon", F32, 1e-5
    ),
    "llama.rope.freq_base": number("llama.rope.freq_base", F32, 10_000),
    "tokenizer.ggml.tokens": array(
        "tokenizer.ggml.tokens", STRING, text(b"a") + text(b"b") + text(b"<e>"), 3
    ),
    "tokenizer.ggml.eos_token_id": number("tokenizer.ggml.eos_token_id", U32, 2),
}
LLAMA_SHAPES = {
    "token_embd.weight": (4, 3),
    "blk.0.attn_norm.weight": (4,),
    "blk.0.attn_q.weight": (4, 4),
    "blk.0.attn_k.weight": (4, 2),
    "blk.0.attn_v.weight": (4, 2),
    "blk.0.attn_output.weight": (4, 4),
    "blk.0.ffn_norm.weight": (4,),
    "blk.0.ffn_gate.weight": (4, 8),
    "blk.0.ffn_up.weight": (4, 8),
    "blk.0.ffn_down.weight": (8, 4),
    "output_norm.weight": (4,),
    "output.weight": (4, 3),
}


def llama(
    keys: dict[str, Key | None] | None = None,
    shapes: dict[str, tuple[int, ...] | None] | None = None,
    value: float = 0.5,
) -> Recipe:
    """A whole model of float32 tensors, with some keys and shapes changed or left out."""
    all_keys = {**LLAMA_KEYS, **(keys or {})}
    entries, offset = [], 0
    for name, shape in {**LLAMA_SHAPES, **(shapes or {})}.items():
        if shape is not None:
            entries.append(Entry(name.encode(), shape, 0, offset))
            size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            offset += -(-size // 32) * 32
    data = b""
    for entry, after in zip(entries, [*(e.offset for e in entries[1:]), offset], strict=True):
        count = entry.dimensions[0] * (entry.dimensions[1] if len(entry.dimensions) > 1 else 1)
        data += struct.pack(f"<{count}f", *[value] * count).ljust(after - entry.offset, b"\0")
    kept = tuple(key for key in all_keys.values() if key is not None)
    return Recipe(keys=kept, entries=tuple(entries), data=data)
