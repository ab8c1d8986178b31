"""Spoil files at random and see that readers refuse them, or read what is still a file.

    python -m tests.benchmarks.fuzz --format gguf --files 100000 [--seed 1] [--keep DIRECTORY]

Anything but a value or an error of ours is a failure, as is a file that takes a processor longer
than a second, or memory far above the file's size. Files that fail are kept. The same seed makes
the same files.
"""

import argparse
import os
import re
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from model.errors import ModelError
from model.gguf_model import FileType, read_gguf_model, write_gguf_model
from model.hugging_face_config import read_config
from tests.benchmarks import fuzz_inputs
from tests.benchmarks.fuzz_seeds import (
    apr_seeds,
    config_seeds,
    read_all,
    read_apr_model,
    reseal_apr,
    safetensors_seeds,
)
from tests.benchmarks.harness import MEGABYTE, print_header
from tests.corrupt.gguf_recipe import GOOD, build, llama
from tests.model.small_llama import small_qwen2, small_settings, small_tensors, small_tokenizer

MAX_SECONDS = 1.0
MAX_EXTRA_MB = 100.0
# Where sizes wrap round, counts become negative, or memory ends.
TELLING = (
    *(0, 1, 2, 3, 5, 8, 31, 32, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1),
)
MAX_EDITS = 4
RESEALED_SHARE = 0.75
EXCHANGED_SHARE = 0.75
VALUE = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\"(?:[^\"\\\\]|\\\\.)*\"|true|false|null")
VALUES = (
    *(b"null", b"true", b'""', b"[]", b"{}", b'[[{"a": 0}]]', b'"x"', b'"\\ud800"', b'"\\u0000"'),
    *(b"-1", b"0", b"0.5", b"1e308", b"1e999", b"-1e-320", b"NaN", b"nan", b"inf"),
    *(str(2**power).encode() for power in (31, 63, 64, 1100)),
    b"9" * 5000,
)


@dataclass(frozen=True)
class Format:
    """Good files of a format, and what reads them."""

    suffix: str
    seeds: Callable[[], Sequence[bytes]]
    readers: tuple[Callable[[Path], object], ...]
    reseal: Callable[[bytes], bytes] | None = None
    """Puts checksums right again, which would refuse every spoilt file before its fault is met."""
    refusals: tuple[type[Exception], ...] = (ModelError,)
    """What a reader may raise."""
    is_text: bool = False
    """Whether values are exchanged, too: bytes seldom make another document of one."""


def gguf_seeds() -> Sequence[bytes]:
    """Make files of one tensor, of a model by hand, and of models by our writer."""
    seeds = [build(GOOD), build(llama())]
    with tempfile.TemporaryDirectory() as directory:
        for settings in (small_settings(), small_qwen2()):
            path = Path(directory) / "seed.gguf"
            write_gguf_model(
                path,
                settings,
                small_tensors(settings),
                tokenizer_json=small_tokenizer().to_str(),
                file_type=FileType.Q8_0,
                provenance={"name": "seed"},
            )
            seeds.append(path.read_bytes())
    return seeds


FORMATS = {
    "gguf": Format(".gguf", gguf_seeds, (read_all, read_gguf_model)),
    "apr": Format(".apr", apr_seeds, (read_all, read_apr_model), reseal_apr),
    "safetensors": Format(".safetensors", safetensors_seeds, (read_all,)),
    "config": Format(".json", config_seeds, (read_config,)),
}
INPUTS = {
    name: Format(suffix, seeds, readers, reseal, fuzz_inputs.REFUSALS, name != "parquet")
    for name, (suffix, seeds, readers, reseal) in fuzz_inputs.KINDS.items()
}


def spoil(seed: bytes, generator: np.random.Generator) -> bytes:
    """Edit a file in a few places, most of them near its start, where the structure is."""
    content = bytearray(seed)
    for _ in range(int(generator.integers(1, MAX_EDITS + 1))):
        if not content:
            break
        # The square of a uniform number is small rather than large.
        place = int(generator.random() ** 2 * len(content))
        EDITS[int(generator.integers(len(EDITS)))](content, place, generator)
    return bytes(content)


def exchange(seed: bytes, generator: np.random.Generator) -> bytes:
    """Put other values, keys or whole documents where there were some."""
    content = seed
    for _ in range(int(generator.integers(1, MAX_EDITS + 1))):
        places = list(VALUE.finditer(content))
        if not places:
            break
        place = places[int(generator.integers(len(places)))]
        own = places[int(generator.integers(len(places)))][0]
        values = (*VALUES, own)
        value = values[int(generator.integers(len(values)))]
        content = content[: place.start()] + value + content[place.end() :]
    return content


def _flip(content: bytearray, place: int, generator: np.random.Generator) -> None:
    content[place] ^= 1 << int(generator.integers(8))


def _replace(content: bytearray, place: int, generator: np.random.Generator) -> None:
    content[place] = int(generator.integers(256))


def _count(content: bytearray, place: int, generator: np.random.Generator) -> None:
    value = TELLING[int(generator.integers(len(TELLING)))]
    width = (1, 2, 4, 8)[int(generator.integers(4))]
    content[place : place + width] = struct.pack("<Q", value)[:width]


def _cut(content: bytearray, place: int, _: np.random.Generator) -> None:
    del content[place:]


def _remove(content: bytearray, place: int, generator: np.random.Generator) -> None:
    del content[place : place + int(generator.integers(1, 64))]


def _insert(content: bytearray, place: int, generator: np.random.Generator) -> None:
    content[place:place] = generator.bytes(int(generator.integers(1, 64)))


def _repeat(content: bytearray, place: int, generator: np.random.Generator) -> None:
    content[place:place] = content[place : place + int(generator.integers(1, 128))]


EDITS = (_flip, _flip, _replace, _count, _count, _count, _cut, _remove, _insert, _repeat)


@dataclass
class Outcome:
    """How often files were read or refused, by error; and what must not have happened."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    extra_mb: float = 0.0


def fuzz(kind: Format, num_files: int, seed: int, keep: Path) -> Outcome:
    """Spoil and read so many files; keep those that fail."""
    generator, seeds, outcome = np.random.default_rng(seed), kind.seeds(), Outcome()
    keep.mkdir(parents=True, exist_ok=True)
    for good in seeds:  # also loads what readers load once, before memory is compared
        _read(kind, good, keep, outcome)
    assert outcome.counts["read"], outcome
    assert not outcome.failures, outcome
    peak_before_mb = _peak_mb()
    for number in range(num_files):
        good = seeds[int(generator.integers(len(seeds)))]
        exchanged = kind.is_text and generator.random() < EXCHANGED_SHARE
        content = exchange(good, generator) if exchanged else spoil(good, generator)
        if kind.reseal and generator.random() < RESEALED_SHARE:
            content = kind.reseal(content)
        started, num_failures = time.process_time(), len(outcome.failures)
        path = _read(kind, content, keep, outcome)
        seconds = time.process_time() - started
        outcome.slowest_seconds = max(outcome.slowest_seconds, seconds)
        if seconds > MAX_SECONDS:
            outcome.failures.append(f"file {number}: {seconds:.2f} s")
        if len(outcome.failures) > num_failures:
            path.replace(keep / f"failure-{seed}-{number}{kind.suffix}")
    outcome.extra_mb = _peak_mb() - peak_before_mb
    if outcome.extra_mb > MAX_EXTRA_MB:
        outcome.failures.append(f"memory grew by {outcome.extra_mb:.0f} MB")
    return outcome


def _read(kind: Format, content: bytes, keep: Path, outcome: Outcome) -> Path:
    # A new file each time: tensors of the one before may still be mapped.
    path = keep / f"file-{os.getpid()}{kind.suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    for reader in kind.readers:
        try:
            reader(path)
            outcome.counts["read"] += 1
        except kind.refusals as error:
            outcome.counts[f"refused: {type(error).__name__}"] += 1
        except Exception as error:  # noqa: BLE001  what must not happen is what is looked for
            outcome.failures.append(f"{reader.__name__}: {error!r}")
    return path


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE


def main() -> None:
    """Fuzz one format and print what became of the files; fail if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--format", choices=(*FORMATS, *INPUTS), required=True)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    print_header(f"{options.files} spoilt {options.format} files, seed {options.seed}", ("torch",))
    started = time.perf_counter()
    kind = (FORMATS | INPUTS)[options.format]
    outcome = fuzz(kind, options.files, options.seed, options.keep)
    seconds = time.perf_counter() - started
    for name, count in outcome.counts.most_common():
        print(f"{count:9d}  {name}")
    print(
        f"{seconds:.0f} s, {options.files / seconds:.0f} files a second; "
        f"slowest {outcome.slowest_seconds * 1000:.0f} ms; memory grew by {outcome.extra_mb:.0f} MB"
    )
    if outcome.failures:
        print("\n".join(outcome.failures[:50]))
        sys.exit(f"{len(outcome.failures)} failures, kept in {options.keep}")


if __name__ == "__main__":
    main()
