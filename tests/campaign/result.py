"""What a run computed, without its times: two runs of the same must agree in all of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evidence.canonical import file_sha256

SAME = {
    "training": ("ckpt/*.apr", "ckpt/*.state/optimizer.safetensors", "ckpt/*.state/state.json"),
    "evaluation": ("*.parquet",),
    "checkpoint": ("model.safetensors", "tokenizer.json"),
    "trace": ("*.csv",),
}
"Files whose bytes follow from the settings alone; others hold times and the refs of those."
STEP = ("step", "train_loss", "grad_norm", "tokens", "learning_rate")


def refs(home: Path) -> dict[str, str]:
    """Return the refs of the last run that was completed, by kind."""
    runs = sorted(
        (home / "evidence").glob("*/metadata.json"), key=lambda path: path.stat().st_mtime
    )
    record = json.loads(runs[-1].read_bytes())
    return {ref.partition(":")[0]: ref for ref in record["refs"].values() if ref}


def directory(home: Path, ref: str) -> Path:
    """Return where an artefact is."""
    kind, _, digest = ref.partition(":")
    return home / "store" / kind / digest[:2] / digest


def result(home: Path) -> dict[str, Any]:
    """Digest everything that the last run computed."""
    found: dict[str, Any] = dict(refs(home))
    for kind, ref in refs(home).items():
        if kind in SAME:
            found[kind] = dict(_digests(directory(home, ref), SAME[kind]))
    if "training" in found:
        found["losses"] = _losses(directory(home, refs(home)["training"]))
    return found


def _digests(artefact: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for path in sorted(each for pattern in patterns for each in artefact.glob(pattern)):
        yield str(path.relative_to(artefact)), file_sha256(path)


def _losses(training: Path) -> list[list[float]]:
    rows = map(json.loads, (training / "train.jsonl").read_text().splitlines())
    return [[row[name] for name in STEP] for row in rows if "train_loss" in row]
