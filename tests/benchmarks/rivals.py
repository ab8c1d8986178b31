"""What others do from text to token files, with the same tokenizer; run in their environment.

    RIVALS/bin/python -m tests.benchmarks.rivals datatrove|megatron|tiktoken CORPUS [--whole]

All write the ids of the corpus or of its sample with an end of text after each document, and
report the sha256 of the ids, which must be that of every other contender. datatrove is its own
pipeline of ParquetReader and DocumentTokenizer. The Megatron-style loop is a re-make of what
preprocess_data.py of Megatron-LM does: JSON lines, a pool, `encode` of each document, appending to
.bin, at the end the .idx. Imports are not timed, nor writing the lines; starting the pool is.
"""

import argparse
import hashlib
import json
import multiprocessing
import struct
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.harness import MEGABYTE, report, timed

END_OF_TEXT = "<|endoftext|>"
CHUNK_DOCUMENTS = 32
UINT16_CODE = 8
# By name, as the environment in which this repository is checked does not have them.
IMPORTS = {
    "datatrove": (
        "datatrove.executor",
        "datatrove.pipeline.readers",
        "datatrove.pipeline.tokens",
        "tokenizers",
        "pyarrow.parquet",
    ),
    "megatron": ("tokenizers",),
    "tiktoken": ("tiktoken",),
}


def plain_tokenizer(corpus: Path, out: Path) -> Path:
    """Copy the tokenizer without added tokens, whose text is in some sources."""
    definition = json.loads((corpus / "tokenizer.json").read_text())
    path = out / "tokenizer.json"
    path.write_text(json.dumps({**definition, "added_tokens": []}))
    return path


def texts(files: Path, pattern: str) -> Iterator[str]:
    """Yield the texts of parquet files."""
    parquet = import_module("pyarrow.parquet")
    for path in sorted(files.glob(pattern)):
        yield from parquet.read_table(path, columns=["text"])["text"].to_pylist()


def write_lines(files: Path, pattern: str, out: Path) -> int:
    """Write texts as JSON lines; return their bytes."""
    num_bytes = 0
    with out.open("w") as lines:
        for text in texts(files, pattern):
            lines.write(json.dumps({"text": text}) + "\n")
            num_bytes += len(text.encode())
    return num_bytes


def datatrove(corpus: Path, files: Path, pattern: str, out: Path) -> Path:
    """Run datatrove's pipeline; the order of documents is kept."""
    executor = import_module("datatrove.executor").LocalPipelineExecutor
    document_tokenizer = import_module("datatrove.pipeline.tokens").DocumentTokenizer
    parquet_reader = import_module("datatrove.pipeline.readers").ParquetReader

    reader = parquet_reader(str(files), text_key="text", glob_pattern=pattern)
    tokenizer = document_tokenizer(
        str(out / "tokens"),
        tokenizer_name_or_path=str(plain_tokenizer(corpus, out)),
        eos_token=END_OF_TEXT,
        shuffle_documents=False,
    )
    logs = str(out / "logs")
    executor([reader, tokenizer], tasks=1, workers=1, logging_dir=logs).run()
    return next((out / "tokens").glob("*.ds"))


_engine: Any = None
_end_id = 0


def _start(path: str, kind: str) -> None:
    global _engine, _end_id  # noqa: PLW0603 (a pool's initializer has no other place)
    from tokenizers import Tokenizer

    _engine = Tokenizer.from_file(path)
    _end_id = _engine.token_to_id(END_OF_TEXT)
    if kind == "tiktoken":
        _engine = as_tiktoken(json.loads(Path(path).read_text()))


def as_tiktoken(definition: dict[str, Any]) -> Any:
    """Give tiktoken the same vocabulary and pattern."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = {chr(byte): byte for byte in printable}
    shifted = (byte for byte in range(256) if byte not in set(printable))
    byte_of |= {chr(256 + rank): byte for rank, byte in enumerate(shifted)}
    vocab = definition["model"]["vocab"]
    ranks = {
        bytes(byte_of[character] for character in token): number
        for token, number in vocab.items()
        if token != END_OF_TEXT
    }
    pattern = definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    encoding = import_module("tiktoken").Encoding
    return encoding("same", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def _encode(line: str) -> list[int]:
    text = json.loads(line)["text"]
    ids = (
        _engine.encode(text).ids
        if hasattr(_engine, "token_to_id")
        else _engine.encode_ordinary(text)
    )
    return [*ids, _end_id]


def megatron(corpus: Path, lines_file: Path, out: Path, kind: str = "tokenizers") -> Path:
    """Read JSON lines, encode in a pool, append to a .bin, write its .idx."""
    lengths = []
    start = (str(plain_tokenizer(corpus, out)), kind)
    with (
        lines_file.open() as lines,
        (out / "tokens.bin").open("wb") as file,
        multiprocessing.get_context("spawn").Pool(1, _start, start) as pool,
    ):
        for ids in pool.imap(_encode, lines, CHUNK_DOCUMENTS):
            file.write(np.array(ids, dtype=np.uint16).tobytes(order="C"))
            lengths.append(len(ids))
        pool.close()
        pool.join()
    write_idx(out / "tokens.idx", np.array(lengths, dtype=np.int32))
    return out / "tokens.bin"


def write_idx(path: Path, lengths: np.ndarray[Any, Any]) -> None:
    """Write the index that Megatron-LM reads: sizes, byte offsets, document bounds."""
    offsets = (np.cumsum(lengths, dtype=np.int64) - lengths) * 2
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, UINT16_CODE, len(lengths), len(lengths) + 1)
    bounds = np.arange(len(lengths) + 1, dtype=np.int64)
    path.write_bytes(head + lengths.tobytes() + offsets.tobytes() + bounds.tobytes())


def main() -> None:
    """Run one rival and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rival", choices=("datatrove", "megatron", "tiktoken"))
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--whole", action="store_true", help="all of it instead of the sample")
    options = parser.parse_args()
    for module in IMPORTS[options.rival]:
        import_module(module)
    corpus: Path = options.corpus
    files, pattern = (corpus if options.whole else corpus / "sample"), "*.parquet"
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        num_bytes = write_lines(files, pattern, out / "lines.jsonl")
        with timed() as timing:
            if options.rival == "datatrove":
                found = datatrove(corpus, files, pattern, out)
            else:
                kind = "tokenizers" if options.rival == "megatron" else "tiktoken"
                found = megatron(corpus, out / "lines.jsonl", out, kind)
        content = found.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    report(timing, amount=num_bytes / MEGABYTE, num_tokens=len(content) // 2, sha256=sha256)


if __name__ == "__main__":
    main()
