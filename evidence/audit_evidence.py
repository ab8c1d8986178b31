"""Somebody's evidence, read as it lies: runs of epochs and steps, and what is said beside them.

The layout is the reference system's: `<run>-NNN.metadata.json` with nine fields an epoch, summaries
with a list of epochs, `train.jsonl`, documents with `per_step_metrics`, tables of layers.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evidence.canonical import loads
from evidence.errors import MalformedEvidenceError, MalformedJsonError, NoEvidenceError

Row = Mapping[str, object]

_EPOCH_FILE = re.compile(r"^(?P<run>.*?)(?P<epoch>\d+)(\.metadata)?\.json$")
LARGEST_NUMBER = 1e30
_EXPLAINED = {"sides", "counts", "reference"}
_STEPS_FILE = "train.jsonl"
_LOSSES = ("train_loss", "val_loss")

FACTS: Mapping[str, tuple[str, ...]] = {
    "seed": ("seed",),
    "steps": ("num_steps", "num_steps_target", "steps_target"),
    "batch": ("batch_size",),
    "length": ("seq_length",),
    "peak_lr": ("lr_max", "peak_lr", "learning_rate"),
    "warmup": ("warmup_steps",),
    "target": ("target_val_loss",),
    "vocabulary": ("vocab_size",),
    "parameters": ("num_parameters", "parameters", "param_count"),
    "corpus_tokens": ("corpus_tokens", "total_tokens"),
    "unigram": ("unigram_nats", "unigram"),
    "device": ("gpu", "device_name", "gpus"),
    "machine": ("host", "hostname", "cpu", "platform", "gpu"),
    "code": ("git_commit", "git_sha", "commit", "producer_sha256", "lock_sha256"),
    "data": ("shards", "corpus_sha256", "dataset_sha256", "data_sha256"),
    "validation": ("shards", "val_shard", "val_sha256", "val_data_sha256"),
    "passes": ("corpus_passes", "epochs_of_corpus"),
}
"""What is looked for beside the epochs, and the names that it goes by."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One epoch or step, with the place where it stands."""

    file: str
    place: str
    "Where in the file, before a field's name: empty, or `epochs[3].`."
    values: Row

    def number(self, name: str) -> float | None:
        """Return a field as a number; None where it has none."""
        return _number(self.values.get(name))

    def text(self, name: str) -> str | None:
        """Return a field as text; None where it has none."""
        value = self.values.get(name)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class AuditedRun:
    """What is told of one training."""

    name: str
    epochs: tuple[Entry, ...]
    steps: tuple[Entry, ...] = ()
    beside: tuple[Entry, ...] = ()
    "The documents that speak of it, each as one entry."

    def facts(self, name: str) -> list[object]:
        """List the different values that a fact has in the run's documents."""
        keys = FACTS[name]
        rows: list[Row] = [entry.values for entry in (*self.beside, *self.epochs)]
        found = (value for row in rows for key, value in walk(row) if key in keys)
        return list({repr(value): value for value in found if value not in (None, [], "")}.values())

    def fact(self, name: str) -> float | None:
        """Return a fact that is one number; None if it is none, or several."""
        found = [number for value in self.facts(name) if (number := _number(value)) is not None]
        return found[0] if len(found) == 1 else None

    def column(self, name: str) -> list[tuple[Entry, float]]:
        """List the epochs that have a number in a field, with it."""
        pairs = ((entry, entry.number(name)) for entry in self.epochs)
        return [(entry, value) for entry, value in pairs if value is not None]


@dataclass(frozen=True, slots=True)
class LayerTable:
    """A table with one statistic of every layer."""

    file: str
    columns: Mapping[str, tuple[float, ...]]
    explained: bool
    "Whether a document beside it says what it was compared with."


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a directory tells."""

    directory: Path
    runs: tuple[AuditedRun, ...]
    tables: tuple[LayerTable, ...]
    num_files: int
    malformed: tuple[MalformedEvidenceError, ...]


@dataclass(slots=True)
class _Folder:
    """What was read in one folder."""

    epochs: dict[str, list[Entry]] = field(default_factory=dict)
    summaries: list[AuditedRun] = field(default_factory=list)
    documents: list[Entry] = field(default_factory=list)
    steps: list[Entry] = field(default_factory=list)
    tables: list[tuple[str, Mapping[str, tuple[float, ...]]]] = field(default_factory=list)
    num_files: int = 0
    malformed: list[MalformedEvidenceError] = field(default_factory=list)


def read_evidence(directory: Path) -> Evidence:
    """Read a directory and those below it; hidden ones and links are left out.

    Raises: NoEvidenceError.
    """
    if not directory.is_dir():
        raise NoEvidenceError(str(directory), "no directory")
    folders = [_read_folder(directory, folder) for folder in _folders(directory)]
    runs = tuple(run for folder in folders for run in _runs(folder))
    tables = tuple(
        LayerTable(name, columns, _explains(folder.documents))
        for folder in folders
        for name, columns in folder.tables
    )
    malformed = tuple(error for folder in folders for error in folder.malformed)
    if not (runs or tables or malformed):
        raise NoEvidenceError(str(directory), "no epoch, step or table of layers")
    return Evidence(directory, runs, tables, sum(each.num_files for each in folders), malformed)


def walk(value: object) -> Iterator[tuple[str, object]]:
    """Go through every key of a document, however deep."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            left.extend(reversed(list(value.values())))
        elif isinstance(value, list):
            left.extend(reversed(value))


def _number(value: object) -> float | None:
    """Return a value as a number that can be computed with; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= LARGEST_NUMBER else None


def _folders(directory: Path) -> Iterator[Path]:
    yield directory
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _folders(path)


def _read_folder(root: Path, folder: Path) -> _Folder:
    found = _Folder()
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READERS or not path.is_file() or path.is_symlink():
            continue
        name = str(path.relative_to(root)).encode(errors="backslashreplace").decode()
        try:
            _READERS[path.suffix](found, name, path.read_bytes())
        except MalformedJsonError as error:
            found.malformed.append(MalformedEvidenceError(name, error.reason))
        except MalformedEvidenceError as error:
            found.malformed.append(error)
        found.num_files += 1
    return found


def _read_document(found: _Folder, name: str, content: bytes) -> None:
    value = _loads(name, content)
    if isinstance(value, dict) and _is_epoch(value):
        match = _EPOCH_FILE.match(name.rpartition("/")[2])
        run = name if match is None else f"{name[: len(name) - len(match[0])]}{match['run']}*"
        found.epochs.setdefault(run, []).append(_entry(name, "", value))
    elif rows := _rows(value, "epochs"):
        entries = tuple(_entry(name, f"{place}.", row) for place, row in rows)
        told = {key: item for key, item in _members(value) if key != "epochs"}
        found.summaries.append(AuditedRun(name, entries, (), (Entry(name, "", told),)))
    elif rows := _rows(value, "per_step_metrics"):
        steps = tuple(Entry(name, f"{place}.", row) for place, row in rows)
        told = {key: item for key, item in _members(value) if key != "per_step_metrics"}
        found.summaries.append(AuditedRun(name, (), steps, (Entry(name, "", told),)))
    elif isinstance(value, dict):
        found.documents.append(Entry(name, "", value))


def _read_lines(found: _Folder, name: str, content: bytes) -> None:
    if name.rpartition("/")[2] != _STEPS_FILE:
        return
    for number, line in enumerate(content.splitlines(), start=1):
        value = loads(line, name)
        if not isinstance(value, dict):
            raise MalformedEvidenceError(name, f"line {number} is no object")
        if "train_loss" in value and "step" in value:
            found.steps.append(Entry(name, f"line {number}: ", value))


def _read_table(found: _Folder, name: str, content: bytes) -> None:
    header, *rows = list(csv.reader(io.StringIO(content.decode(errors="replace")))) or [[]]
    if not rows or header[0] != "layer":
        return
    try:
        numbers = [[float(cell) for cell in row] for row in rows]
        columns = tuple(zip(*numbers, strict=True))
    except ValueError:
        raise MalformedEvidenceError(name, "a cell is no number, or a row is short") from None
    found.tables.append((name, dict(zip(header[1:], columns[1:], strict=True))))


_READERS = {".json": _read_document, ".jsonl": _read_lines, ".csv": _read_table}


def _loads(name: str, content: bytes) -> object:
    """Read a document, also behind the lines of a log."""
    start = re.search(rb"^[\[{]", content, re.MULTILINE)
    return loads(content[start.start() :] if start else content, name)


def _explains(documents: Sequence[Entry]) -> bool:
    return any(key in _EXPLAINED for entry in documents for key, _ in walk(entry.values))


def _runs(folder: _Folder) -> Iterator[AuditedRun]:
    beside, steps = tuple(folder.documents), tuple(folder.steps)
    for name, epochs in folder.epochs.items():
        ordered = tuple(sorted(epochs, key=lambda entry: entry.number("epoch") or 0))
        yield AuditedRun(name, ordered, steps if len(folder.epochs) == 1 else (), beside)
    if steps and len(folder.epochs) != 1:
        yield AuditedRun(steps[0].file, (), steps, beside)
    for run in folder.summaries:
        yield AuditedRun(run.name, run.epochs, run.steps, (*run.beside, *beside))


def _is_epoch(value: Row) -> bool:
    return "epoch" in value and any(name in value for name in _LOSSES)


def _rows(value: object, key: str) -> Sequence[tuple[str, Row]]:
    """List the epochs or steps in a document, with their places; none if it holds none."""
    listed = value.get(key) if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return []
    prefix = key if isinstance(value, dict) else ""
    return [
        (f"{prefix}[{number}]", row)
        for number, row in enumerate(listed)
        if isinstance(row, dict) and any(name in row for name in _LOSSES)
    ]


def _members(value: object) -> Sequence[tuple[str, object]]:
    return list(value.items()) if isinstance(value, dict) else []


def _entry(name: str, place: str, values: Row) -> Entry:
    """Hold an epoch to what its fields may be."""
    for key in _NUMBERS & values.keys():
        value = values[key]
        if value is not None and _number(value) is None:
            found = json.dumps(value)[:40]
            raise MalformedEvidenceError(name, f"{place}{key} is {found}, not a number")
    return Entry(name, place, values)


_NUMBERS = {
    *("epoch", "train_loss", "val_loss", "train_ppl", "val_ppl"),
    *("wall_seconds", "tokens_seen", "grad_norm_max"),
}
