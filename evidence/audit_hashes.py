"""Digests that are none: computed from counters, shared by different states, or not digests."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from evidence.audit_evidence import AuditedRun, Entry, Evidence
from evidence.audit_rule import Rule, Seen, each_run, seen

HASH = "optimizer_state_sha"
SHOULD = "the sha256 of the optimizer's state"

TAGS = ("aprender-train:pretrain:optstate:v1:", "")
"""What has been put before the counters.

Source: behaviour of the reference's driver, where no digest came from the device.
"""
USUAL_SEEDS = (42, 0, 1)
_SEPARATORS = ("", ":", ",", "-", "_", "|", " ", "/")
_WIDTHS = (("u64le", 8, "little"), ("u64be", 8, "big"), ("u32le", 4, "little"))
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_NOTHING = {
    hashlib.sha256(b"").hexdigest(): "sha256 of nothing",
    "0" * 64: "zeros",
    "f" * 64: "ones",
}


def derived_hashes(run: AuditedRun) -> Iterator[Seen]:
    """Find digests that follow from what else the file tells."""
    seeds = list(dict.fromkeys((*_seeds(run), *USUAL_SEEDS)))
    for entry in run.epochs:
        recorded = (entry.text(HASH) or "").lower()
        if not _SHA256.fullmatch(recorded):
            continue
        how = _NOTHING.get(recorded) or construction(recorded, entry, seeds)
        if how:
            yield seen(entry, HASH, f"{recorded[:12]}... = {how}", SHOULD)


def _seeds(run: AuditedRun) -> list[int]:
    return [seed for seed in run.facts("seed") if isinstance(seed, int) and 0 <= seed < 1 << 32]


def construction(recorded: str, entry: Entry, seeds: Sequence[int]) -> str | None:
    """Say how a digest is computed from a seed and an epoch's counters; None if it is not."""
    counters = {
        name: int(value)
        for name in ("epoch", "tokens_seen", "step")
        if (value := entry.number(name)) is not None and 0 <= value < 1 << 63
    }
    for seed in seeds:
        named = {"seed": seed, **counters}
        for content, how in _contents(named):
            if hashlib.sha256(content).hexdigest() == recorded:
                return f"sha256({how})"
    return None


def _contents(named: Mapping[str, int]) -> Iterator[tuple[bytes, str]]:
    """List what people hash instead of a state: some of the counters, in every order."""
    for size in range(1, len(named) + 1):
        for names in itertools.permutations(named, size):
            values = [named[name] for name in names]
            listed = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            for content, how in (*_binary(values), *_written(names, values)):
                for tag in TAGS:
                    before = f'"{tag}" + ' if tag else ""
                    yield tag.encode() + content, f"{before}{how} of {listed}"


def _binary(values: Sequence[int]) -> Iterator[tuple[bytes, str]]:
    for name, width, order in _WIDTHS:
        if all(value < 1 << (8 * width) for value in values):
            little = order == "little"
            yield (
                b"".join(value.to_bytes(width, "little" if little else "big") for value in values),
                name,
            )


def _written(names: Sequence[str], values: Sequence[int]) -> Iterator[tuple[bytes, str]]:
    for separator in _SEPARATORS if len(values) > 1 else ("",):
        yield separator.join(map(str, values)).encode(), "text"
    document = dict(zip(names, values, strict=True))
    yield json.dumps(document).encode(), "JSON"
    yield json.dumps(document, sort_keys=True, separators=(",", ":")).encode(), "canonical JSON"


def shared_hashes(evidence: Evidence) -> Iterator[Seen]:
    """Find one digest of states that cannot be the same, because their losses differ."""
    first: dict[str, Entry] = {}
    for entry in (entry for run in evidence.runs for entry in run.epochs):
        recorded = entry.text(HASH) or ""
        if not _SHA256.fullmatch(recorded):
            continue
        other = first.setdefault(recorded, entry)
        if _losses(other) != _losses(entry):
            where = f"{other.file} {other.place}".rstrip(" .")
            found = f"{recorded[:12]}..., as in {where}"
            yield seen(entry, HASH, found, "another one where losses differ")


def _losses(entry: Entry) -> tuple[float | None, float | None]:
    return entry.number("train_loss"), entry.number("val_loss")


def malformed_hashes(run: AuditedRun) -> Iterator[Seen]:
    """Find what has not the form of a sha256."""
    for entry in run.epochs:
        recorded = entry.values.get(HASH)
        if recorded is not None and not _SHA256.fullmatch(str(recorded)):
            yield seen(entry, HASH, json.dumps(recorded)[:40], "64 hex digits")


def same_contents(evidence: Evidence) -> Iterator[Seen]:
    """Find epochs that are copies of one another under two names within a run."""
    for run in evidence.runs:
        first: dict[str, Entry] = {}
        for entry in run.epochs:
            told = {key: value for key, value in entry.values.items() if key != "epoch"}
            other = first.setdefault(json.dumps(told, sort_keys=True), entry)
            if other is not entry:
                where = f"{other.file} {other.place}".rstrip(" .")
                yield seen(entry, "epoch", f"all fields as in {where}", "an epoch of its own")


RULES = (
    Rule(id="derived-hash", resembles="F07", look=each_run(derived_hashes)),
    Rule(id="shared-hash", resembles="F07", look=shared_hashes),
    Rule(id="malformed-hash", resembles="F07", look=each_run(malformed_hashes)),
    Rule(id="copied-epoch", resembles="F01", look=same_contents),
)
