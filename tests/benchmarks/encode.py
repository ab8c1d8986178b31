"""Text to ids, by engine, in megabytes of text per processor second.

    python -m tests.benchmarks.encode CORPUS --rivals RIVALS/bin/python [--repeats 3]

The fast engines read the whole corpus once, cold; Hugging Face the sample. Then their ids are held
against each other on the sample, and `--prove MB` against Hugging Face on so much of the corpus.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.candidates import BATCH_BYTES
from data.checked_encoder import CheckedEncoder
from data.encoders import Encoder, differing_code_points, open_engine
from data.tokenizer import EngineName, Tokenizer
from tests.benchmarks.harness import (
    MEGABYTE,
    Contender,
    compare,
    print_header,
    print_table,
    report,
    require_equal,
    timed,
)

PACKAGES = ("tokenizers", "gigatoken", "fastokens", "pyarrow", "numpy")
ENGINES: tuple[EngineName, ...] = ("gigatoken", "fastokens", "tokenizers")
MODULE = "tests.benchmarks.encode"


def batches(files: list[Path]) -> Iterator[pa.LargeStringArray]:
    """Yield texts in batches of about the size that the stages use."""
    for path in files:
        texts = pq.read_table(path, columns=["text"])["text"].combine_chunks()
        starts = np.frombuffer(texts.buffers()[1], dtype=np.int64)
        first = 0
        while first < len(texts):
            last = int(np.searchsorted(starts, starts[first] + BATCH_BYTES))
            last = min(max(last, first + 1), len(texts))
            yield texts.slice(first, last - first)
            first = last


def parts(corpus: Path, which: str) -> list[Path]:
    """List the files of the whole corpus or of its sample."""
    pattern = "part-*.parquet" if which == "whole" else "sample/sample.parquet"
    return sorted(corpus.glob(pattern))


def contend(corpus: Path, engine: EngineName, which: str, *, is_checked: bool) -> None:
    """Encode everything with one engine; report its speed and the digest of its token stream."""
    tokenizer = Tokenizer.load(corpus / "tokenizer.json")
    texts = list(batches(parts(corpus, which)))
    amount = sum(batch.nbytes for batch in texts) / MEGABYTE
    num_tokens, digests = 0, []
    encoder: Encoder = open_engine(engine, tokenizer.engine_definition)
    if is_checked:
        differing = differing_code_points(engine, tokenizer.engine_definition)
        encoder = CheckedEncoder(
            tokenizer, engine, differing=differing, checked_share=0.0005, where="benchmark"
        )
    sha256 = hashlib.sha256()
    with timed() as timing:
        for batch in texts:
            ids = encoder.encode(batch).ended(tokenizer.end_of_text_id, np.dtype("<u2"))
            num_tokens += len(ids)
            digests.append(ids)
        if isinstance(encoder, CheckedEncoder):
            encoder.__exit__(None)
    for ids in digests:
        sha256.update(ids.tobytes())
    report(timing, amount=amount, num_tokens=num_tokens, sha256=sha256.hexdigest())


def prove(corpus: Path, megabytes: int) -> None:
    """Hold the checked engines to Hugging Face on so much of the corpus, document by document."""
    tokenizer = Tokenizer.load(corpus / "tokenizer.json")
    reference = open_engine("tokenizers", tokenizer.engine_definition)
    engines = {
        engine: CheckedEncoder(
            tokenizer,
            engine,
            differing=differing_code_points(engine, tokenizer.engine_definition),
            checked_share=0.0005,
            where="proof",
        )
        for engine in ENGINES[:2]
    }
    done_bytes = num_tokens = num_documents = 0
    for batch in batches(parts(corpus, "whole")):
        if done_bytes >= megabytes * MEGABYTE:
            break
        expected = reference.encode(batch)
        for engine, encoder in engines.items():
            found = encoder.encode(batch)
            assert np.array_equal(found.ids_N, expected.ids_N), engine
            assert np.array_equal(found.lengths_D, expected.lengths_D), engine
        decoded = tokenizer.decode_batch(expected.ids_N, expected.lengths_D)
        assert decoded.equals(batch.cast(pa.large_binary()))
        done_bytes += batch.nbytes
        num_tokens += len(expected.ids_N)
        num_documents += len(batch)
    for encoder in engines.values():
        encoder.__exit__(None)
    referred = {engine: encoder.num_referred for engine, encoder in engines.items()}
    print(
        f"proof: {num_documents} documents, {done_bytes / MEGABYTE:.1f} MB, {num_tokens} tokens: "
        f"ids of {' and '.join(engines)} are Hugging Face's; referred to Hugging Face: {referred}; "
        "every document decodes to its bytes"
    )


def main() -> None:
    """Compare the engines, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rivals", help="the Python of the environment of requirements.txt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prove", type=int, default=0, metavar="MB")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--which", choices=("whole", "sample"), help=argparse.SUPPRESS)
    parser.add_argument("--checked", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        contend(options.corpus, options.engine, options.which, is_checked=options.checked)
        return
    print_header("Text to ids", PACKAGES)
    at = str(options.corpus)

    def ours(name: str, engine: str, which: str, *flags: str) -> Contender:
        return Contender(name, MODULE, (at, "--engine", engine, "--which", which, *flags))

    contenders = [
        ours("tokenizers encode_batch_fast, sample", "tokenizers", "sample"),
        ours("gigatoken, sample", "gigatoken", "sample"),
        ours("fastokens, sample", "fastokens", "sample"),
        ours("gigatoken, whole corpus", "gigatoken", "whole"),
        ours("gigatoken checked, whole corpus", "gigatoken", "whole", "--checked"),
        ours("fastokens, whole corpus", "fastokens", "whole"),
    ]
    if options.rivals:
        rival = ("tiktoken", at)
        contenders.append(
            Contender(
                "loop with tiktoken, sample", "tests.benchmarks.rivals", rival, options.rivals
            )
        )
    results = compare(contenders, repeats=options.repeats, unit="MB")
    print_table(results, reference=contenders[0].name)
    on_sample = {found.name: found.runs[0]["sha256"] for found in results if "sample" in found.name}
    require_equal("\nsha256 of the sample's ids", on_sample)
    if options.prove:
        prove(options.corpus, options.prove)


if __name__ == "__main__":
    main()
