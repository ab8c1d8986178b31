"""Source files to token files, the whole stage, in megabytes of text per processor second.

    python -m tests.benchmarks.pretokenize CORPUS --rivals RIVALS/bin/python [--repeats 3]

The stage runs with its units made one after the other in one process: with the filters of the demo
preset without the two that are not cheap, decontamination and near duplicates; with all; and
without any, where its ids must be those of the rivals. How much is checked is what the preset for
The Stack v2 says. What is done once for a tokenizer, whatever the size of the corpus (importing it,
proving the engine), is left out of the rates and printed beside them. The rivals take the same
corpus, once: they need minutes for it. Last come runs of their own with a clock around the parts.
"""

import argparse
import hashlib
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

import data.compaction
import data.encoders
import data.intake
import data.pretokenize
import data.screen
import data.settlement
import data.unicode_classes
from data.corpus import Corpus
from data.documents import DOCUMENTS, REJECTED, TableWriter
from data.pretokenize import pretokenize
from data.shard import ShardSettings, shard
from data.source_tables import TableSource
from data.token_statistics import TokenCounter
from data.tokenizer import Tokenizer
from data.units import Given, Unit
from tests.benchmarks.corpus import VOCAB_SIZE
from tests.benchmarks.harness import (
    MEGABYTE,
    ROOT,
    Contender,
    Result,
    compare,
    print_header,
    print_table,
    report,
    require_equal,
    timed,
)
from tests.benchmarks.parts import Parts
from tests.data.corpus import corpus_of
from tests.data.inline import InlineUnits

MODULE = "tests.benchmarks.pretokenize"
PACKAGES = ("tokenizers", "gigatoken", "pyarrow", "numpy")
ONCE = ("vocabulary", "engine")
SHARDING = ShardSettings(
    context_length=1024,
    packing="concatenate",
    seed=1,
    train_shards=8,
    val_shards=1,
    round_trip_share=0.05,
    baseline_tokens=200_000_000,
)
NO_FILTER = {
    "max_file_bytes": 10**9,
    "max_lines": 10**9,
    "max_mean_line_length": 1e9,
    "max_line_length": 10**9,
    "max_encoded_run": 10**9,
    "drop_secrets": False,
    "near_duplicates": "off",
}
WAYS = ("cheap filters", "all filters", "no filter", "cheap parts", "all parts", "shard")


class TimedUnits(InlineUnits):
    """Units made inline, and the processor seconds of each kind."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.seconds: dict[str, float] = {}

    def __call__(self, what: str, units: Sequence[Unit]) -> list[Path]:
        """Make units of one kind."""
        with timed() as timing:
            found = super().__call__(what, units)
        self.seconds[what] = timing.cpu_seconds
        return found


def asked(corpus: Path, way: str) -> Corpus:
    """Ask for the corpus with the filters of the demo preset and the checks of the large one."""
    preset, large = (
        tomllib.loads((ROOT / "flows" / "presets" / f"{name}.toml").read_text())
        for name in ("demo", "the-stack-v2")
    )
    filters = {**preset["filters"], "allowed_licences": (), "decontaminate": ("HumanEval",)}
    if way.startswith("cheap"):
        filters |= {"decontaminate": (), "near_duplicates": "off"}
    return corpus_of(
        corpus,
        source={"kind": "parquet", "include": ("*.parquet",), "text_column": "text"}
        | {"path_column": "path", "unit_bytes": 0, "licence": ""},
        filters=NO_FILTER if way == "no filter" else filters,
        tokenizer={
            "kind": "import",
            "path": str(corpus / "tokenizer.json"),
            "vocab_size": VOCAB_SIZE,
            "min_merge_frequency": 0,
            "sample_bytes": 0,
            "engine": "gigatoken",
            "checked_share": large["tokenizer"]["checked_share"],
        },
        **preset["pretokenize"] | {"round_trip_share": large["pretokenize"]["round_trip_share"]},
    )


def contend(corpus: Path, way: str, scratch: Path) -> None:
    """Run the stage once; report its speed and the digest of its token stream."""
    out = scratch / "out"
    out.mkdir()
    units, parts = TimedUnits(scratch / "units"), Parts()
    if way.endswith("parts"):
        watch(parts)
    with timed() as timing:
        index = pretokenize(asked(corpus, way), units, out=out)
    by_part = parts.stop()
    sha256 = hashlib.sha256()
    for name, _ in index.token_files:
        sha256.update((out / name).read_bytes())
    tables = [pq.read_table(out / name, columns=["num_bytes"]) for name in (DOCUMENTS, REJECTED)]
    report(
        timing,
        amount=sum(pc.sum(table["num_bytes"]).as_py() or 0 for table in tables) / MEGABYTE,
        cpu_seconds=timing.cpu_seconds - sum(units.seconds[what] for what in ONCE),
        wall_seconds=timing.wall_seconds - sum(units.seconds[what] for what in ONCE),
        num_tokens=index.num_tokens,
        token_bytes=index.num_bytes / MEGABYTE,
        rejected=index.rejected_by_filter,
        units=units.seconds,
        parts=by_part,
        sha256=sha256.hexdigest(),
    )


def contend_shard(corpus: Path, scratch: Path) -> None:
    """Pretokenize, then time the sharding of what came out."""
    (scratch / "tokens").mkdir()
    (scratch / "shards").mkdir()
    units, asked_for = TimedUnits(scratch / "units"), asked(corpus, "cheap filters")
    index = pretokenize(asked_for, units, out=scratch / "tokens")
    tokens, bounds = Given("tokens", scratch / "tokens"), asked_for.settings.bounds
    with timed() as timing:
        shards = shard(tokens, index, SHARDING, bounds, units, out=scratch / "shards")
    num_tokens = shards.train.num_tokens + shards.val.num_tokens
    report(timing, amount=2 * num_tokens / MEGABYTE, num_tokens=num_tokens, units=units.seconds)


def watch(parts: Parts) -> None:
    """Put a clock around every part of the stage; it has no switch for that of its own."""
    for owner, name, part in (
        (data.pretokenize, "vocabulary_unit", "once for a tokenizer"),
        (TableSource, "read", "read"),
        (data.intake, "screen", "screen"),
        (data.screen, "_documents", "sha256 of each text"),
        (data.encoders.GigatokenEncoder, "encode", "encode"),
        (data.encoders.HuggingFaceEncoder, "encode", "check against Hugging Face"),
        (data.unicode_classes.CodePointTest, "documents", "look for code points"),
        (data.encoders.Encoded, "ended", "ends of text"),
        (TokenCounter, "add", "count"),
        (TableWriter, "write", "write tables"),
        (data.intake, "signatures", "MinHash"),
        (data.intake, "check_round_trips", "round trips"),
        (Tokenizer, "load", "load tokenizer"),
        (data.intake, "CheckedEncoder", "open engines"),
    ):
        parts.watch(owner, name, part)
    for module, name, part in (
        ("corpus_units", "import_vocabulary", "once for a tokenizer"),
        ("corpus_units", "prove_engine", "once for a tokenizer"),
        ("corpus_units", "take_in", "take in, the rest"),
        ("corpus_units", "settle_units", "settle"),
        ("corpus_units", "compact", "compact"),
        ("pretokenize", "_assemble", "assemble"),
    ):
        parts.watch(getattr(data, module), name, part)


def print_parts(run: Mapping[str, Any]) -> None:
    """Print the milliseconds that a megabyte of text takes, by part."""
    spent = {part: seconds for part, seconds in run["parts"].items() if not part.startswith("once")}
    total = sum(spent.values())
    print("\n| part | ms a MB | share |\n|---|---|---|")
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"| {part} | {1000 * seconds / run['amount']:.2f} | {seconds / total:.1%} |")
    print(f"| all | {1000 * total / run['amount']:.2f} | |")
    print(f"\nnot encoding: {1 - spent['encode'] / total:.1%}")


def print_units(result: Result) -> None:
    """Print what each kind of unit took in the first run, and what became of the files."""
    run = result.runs[0]
    seconds = ", ".join(f"{what} {found:.2f}" for what, found in run["units"].items())
    print(f"\n{result.name}: {run['amount']:.1f} MB read, {run['token_bytes']:.1f} MB kept in")
    print(f"{run['num_tokens']} tokens; rejected {run['rejected']}; CPU seconds: {seconds}")


def main() -> None:
    """Compare the stage with its rivals, or be one of the contenders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rivals", help="the Python of the environment of requirements.txt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        with tempfile.TemporaryDirectory() as scratch:
            if options.way == "shard":
                contend_shard(options.corpus, Path(scratch))
            else:
                contend(options.corpus, options.way, Path(scratch))
        return
    print_header("Source files to token files", PACKAGES)
    at = str(options.corpus)
    ours = {way: Contender(f"assay, {way}", MODULE, (at, "--way", way)) for way in WAYS}
    results = compare([ours[way] for way in WAYS[:3]], repeats=options.repeats, unit="MB")
    rivals = [
        Contender(rival, "tests.benchmarks.rivals", (rival, at, "--whole"), options.rivals)
        for rival in (("datatrove", "megatron") if options.rivals else ())
    ]
    results += compare(rivals, repeats=1, unit="MB")
    print_table(results, reference=results[min(3, len(results) - 1)].name)
    require_equal("\nsha256 of all ids", {run.name: run.runs[0]["sha256"] for run in results[2:]})
    for result in results[:2]:
        print_units(result)
    print("\n## Sharding, MB of token files\n")
    sharding = compare([ours["shard"]], repeats=options.repeats, unit="MB")
    print_table(sharding, reference=ours["shard"].name)
    for way in ("cheap parts", "all parts"):
        print(f"\n## {way.capitalize()}")
        print_parts(ours[way].run())


if __name__ == "__main__":
    main()
