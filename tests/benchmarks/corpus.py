"""A corpus of real Python source: the packages that this interpreter has, and wheels.

    python -m tests.benchmarks.corpus OUT --megabytes 500 [--wheels DIR] [--sample-megabytes 24]

Writes `part-NNNNN.parquet` (path, text; zstd), a sample of whole files drawn from all of it as
`sample/sample.parquet`, and `tokenizer.json`, trained on the sample.
Files are sorted by path and deduplicated by content: the same packages give the same corpus.
"""

import argparse
import hashlib
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.tokenizer import train_tokenizer

PART_BYTES = 64_000_000
SCHEMA = pa.schema([("path", pa.string()), ("text", pa.large_string())])
VOCAB_SIZE = 50_257


def installed() -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every .py file of the standard library and the packages."""
    roots = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    for root in sorted(roots):
        for path in sorted(root.rglob("*.py")):
            if path.is_file():
                yield f"{root.name}/{path.relative_to(root)}", path.read_bytes()


def of_wheels(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every .py file of the wheels in a directory."""
    for wheel in sorted(directory.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".py"):
                    yield f"{wheel.name}/{name}", archive.read(name)


def texts(wheels: Path | None, num_bytes: int) -> Iterator[tuple[str, str]]:
    """Yield different texts until there are enough bytes."""
    seen: set[bytes] = set()
    left = num_bytes
    for source in (installed(), of_wheels(wheels) if wheels else iter(())):
        for path, content in source:
            digest = hashlib.sha256(content).digest()
            if left <= 0 or digest in seen or not content:
                continue
            seen.add(digest)
            try:
                text = content.decode()
            except UnicodeDecodeError:
                continue
            if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
                # A byte order mark is no text to us, and some to others.
                continue
            left -= len(content)
            yield path, text


def write_parts(out: Path, found: Iterator[tuple[str, str]]) -> tuple[str, int, int]:
    """Write the parts; return the digest of all texts, their number and their bytes."""
    digest, number, num_bytes = hashlib.sha256(), 0, 0
    rows: list[tuple[str, str]] = []
    waiting = parts = 0
    for path, text in found:
        content = text.encode()
        digest.update(hashlib.sha256(content).digest())
        rows.append((path, text))
        number, num_bytes, waiting = number + 1, num_bytes + len(content), waiting + len(content)
        if waiting >= PART_BYTES:
            write(out / f"part-{parts:05d}.parquet", rows)
            rows, waiting, parts = [], 0, parts + 1
    if rows:
        write(out / f"part-{parts:05d}.parquet", rows)
    return digest.hexdigest(), number, num_bytes


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write one parquet file."""
    paths, contents = zip(*rows, strict=True)
    table = pa.Table.from_arrays(
        [pa.array(paths), pa.array(contents, pa.large_string())], schema=SCHEMA
    )
    pq.write_table(table, path, compression="zstd", row_group_size=1000)


def write_sample(out: Path, num_bytes: int) -> list[str]:
    """Draw files of all parts until there are enough bytes; the slower contenders read them."""
    table = pa.concat_tables(pq.read_table(part) for part in sorted(out.glob("part-*.parquet")))
    order = np.random.default_rng(0).permutation(len(table))
    lengths = pc.binary_length(table["text"]).to_numpy()[order]
    chosen = np.sort(order[: int(np.searchsorted(np.cumsum(lengths), num_bytes)) + 1])
    rows = [(row["path"], row["text"]) for row in table.take(chosen).to_pylist()]
    (out / "sample").mkdir(exist_ok=True)
    write(out / "sample" / "sample.parquet", rows)
    return [text for _, text in rows]


def main() -> None:
    """Build the corpus."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--sample-megabytes", type=int, default=24)
    parser.add_argument("--wheels", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    found = texts(options.wheels, options.megabytes * 1_000_000)
    sha256, number, num_bytes = write_parts(options.out, found)
    sample = write_sample(options.out, options.sample_megabytes * 1_000_000)
    tokenizer = train_tokenizer(sample, vocab_size=VOCAB_SIZE, min_merge_frequency=2)
    (options.out / "tokenizer.json").write_text(tokenizer)
    print(
        f"{number} files, {num_bytes / 1e6:.1f} MB, sha256 {sha256}; sample of {len(sample)} files"
    )
    sys.stdout.flush()
    if num_bytes < options.megabytes * 1_000_000:
        sys.exit(
            f"fewer than {options.megabytes} MB: give --wheels DIR (pip download --no-deps ...)"
        )


if __name__ == "__main__":
    main()
