"""Claims: every measured number of a document names the evidence that it is from.

A *measured number* is a number with a unit (`UNITS`) in running text, a list or a table, or a
number with decimals in a fenced block. Headings, inline code and links' addresses are none. Its
block (text up to a blank line, or a fence) must name a source, in a comment before or in it:

    <!-- claim: claims/demo.json evaluate.val_loss shard.five_gram_nats -->
    <!-- claim: decisions/0009-evaluation.md -->
    <!-- no claim: a limit of the program -->

or by a link to a file of the evidence directory. Of a JSON record the named fields must round to
what the block shows, of any other file the text must hold the number as it is written. A source
that backs no number of its block is stale.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.errors import EvidenceError
from evidence.records import SEAL, flatten, read_record

SECONDS = {"ms": 1e-3, "s": 1.0, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
BYTES = {"byte": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2.0**10, "MiB": 2.0**20,
         "GiB": 2.0**30, "TiB": 2.0**40}  # fmt: skip
OTHERS = (
    *("nat", "bit", "%", "megabytes", "tokens a second", "tokens/s", "TFLOP/s"),
    *("times as", "times faster", "times slower"),
)
UNITS = (*SECONDS, *BYTES, *OTHERS)
WORDS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
ROUGHLY = 0.2
"Part by which a number after `some` or `about` may differ."

_NUMBER = rf"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|\b(?:{'|'.join(WORDS)})\b"
_UNIT = "|".join(f"{re.escape(unit)}s?" if unit[-1].isalpha() else unit for unit in UNITS)
_WITH_UNIT = re.compile(
    rf"(?P<rough>\b(?:some|about) )?(?<![\w.,:/-])(?P<number>{_NUMBER})[ \u00a0-]?(?P<unit>{_UNIT})"
    r"(?![\w/])",
    re.IGNORECASE,
)
_DECIMAL = re.compile(r"(?<![\w.])(?P<number>-?\d[\d,]*\.\d+(?:e[+-]?\d+)?)(?![\w]|\.\d)")
_COMMENT = re.compile(r"<!-- (?P<kind>claim|no claim): (?P<text>.*?) -->", re.DOTALL)
_LINK = re.compile(r"\]\((?:\.\./)*evidence/(?P<path>[^)#]+)[^)]*\)")
_ANY_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_NO_TEXT = re.compile(r"^#[^\n]*$|`[^`]*`|\]\([^)]*\)|<!--.*?-->", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```.*?^```[^\n]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as a document shows it."""

    text: str
    unit: str
    roughly: bool

    @property
    def value(self) -> float:
        """What it says."""
        text = self.text.lower().replace(",", "")
        return float(WORDS.index(text) + 1) if text in WORDS else float(text)

    def is_shown_of(self, field: str, measured: object) -> bool:
        """Tell whether a measurement is what the document shows of it."""
        if isinstance(measured, bool) or not isinstance(measured, int | float):
            return False
        found = measured / self._scale(field)
        if self.roughly:
            return abs(found - self.value) <= ROUGHLY * abs(self.value)
        half = 0.5 * self._last_digit * (1 + 1e-9)
        return abs(found - self.value) <= half

    def _scale(self, field: str) -> float:
        """Return what one of the shown unit is in that of a field."""
        unit = self.unit if self.unit in UNITS else self.unit.removesuffix("s")
        if field.endswith("_seconds"):
            return SECONDS.get(unit, 1.0)
        if field.endswith("_bytes"):
            return BYTES.get(unit, 1.0)
        return 0.01 if unit == "%" and field.endswith("_share") else 1.0

    @property
    def _last_digit(self) -> float:
        if self.text.lower() in WORDS:
            return 1.0
        mantissa, _, exponent = self.text.lower().replace(",", "").partition("e")
        decimals = len(mantissa.partition(".")[2])
        return float(10.0 ** (int(exponent or 0) - decimals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a block names as its evidence."""

    path: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A piece of a document, with what it shows and names."""

    line: int
    numbers: tuple[Number, ...]
    sources: tuple[Source, ...]
    is_excused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found in a document."""

    num_claims: int
    faults: tuple[str, ...]


def check_document(
    name: str, text: str, evidence: Path, withdrawn: Mapping[str, str] | None = None
) -> Checked:
    """Hold every measured number of a document to its source.

    `withdrawn` says of records, by digest, why they were withdrawn.
    """
    faults: list[str] = []
    num_claims = 0
    for block in read_blocks(text):
        num_claims += len(block.numbers)
        faults += [
            f"{name}:{block.line}: {fault}" for fault in _faults(block, evidence, withdrawn or {})
        ]
    return Checked(num_claims=num_claims, faults=tuple(faults))


def read_blocks(text: str) -> Iterator[Block]:
    """Cut a document into blocks that show a measured number or name a source."""
    pending: list[str] = []
    for line, piece in _pieces(text):
        comments = _COMMENT.findall(piece)
        bare = _COMMENT.sub("", piece)
        if comments and not _ANY_COMMENT.sub("", bare).strip():
            pending.append(piece)
            continue
        whole = "\n".join([*pending, piece])
        pending = []
        numbers, sources = tuple(_numbers(bare)), tuple(_sources(whole))
        is_excused = any(kind == "no claim" for kind, _ in _COMMENT.findall(whole))
        if numbers or any(kind == "claim" for kind, _ in _COMMENT.findall(whole)):
            yield Block(line=line, numbers=numbers, sources=sources, is_excused=is_excused)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Cut at blank lines and around fences; say at which line each piece begins."""
    end = 0
    for fence in _FENCE.finditer(text):
        yield from _paragraphs(text, end, fence.start())
        yield text.count("\n", 0, fence.start()) + 1, fence.group()
        end = fence.end()
    yield from _paragraphs(text, end, len(text))


def _paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r"(?:[^\n]+\n?)+", text[start:end]):
        if match.group().strip():
            yield text.count("\n", 0, start + match.start()) + 1, match.group()


def _numbers(piece: str) -> Iterator[Number]:
    if piece.startswith("```"):
        for match in _DECIMAL.finditer(piece):
            yield Number(text=match["number"], unit="", roughly=False)
        return
    text = _NO_TEXT.sub(" ", piece)
    for match in _WITH_UNIT.finditer(text.replace("\n", " ")):
        yield Number(text=match["number"], unit=match["unit"], roughly=bool(match["rough"]))


def _sources(piece: str) -> Iterator[Source]:
    for kind, text in _COMMENT.findall(piece):
        if kind == "claim":
            path, *fields = text.split()
            yield Source(path=path, fields=tuple(fields))
    for match in _LINK.finditer(piece):
        if Path(match["path"]).suffix:
            yield Source(path=match["path"])


def _faults(block: Block, evidence: Path, withdrawn: Mapping[str, str]) -> Iterator[str]:
    """Say which numbers of a block nothing backs, and which sources back none."""
    texts: list[str] = []
    fields: dict[str, Any] = {}
    for source in block.sources:
        try:
            found = _read(source, evidence, withdrawn)
        except (EvidenceError, OSError, ValueError) as error:
            yield f"{source.path}: {error}"
            continue
        if isinstance(found, str):
            texts.append(found)
        else:
            fields |= found
    used: set[str] = set()
    for number in block.numbers:
        backing = {name for name, value in fields.items() if number.is_shown_of(name, value)}
        used |= backing
        if not backing and not block.is_excused and not _stands_in(number, texts):
            yield f"{number.text} {number.unit}".rstrip() + " is backed by no evidence"
    for name in fields.keys() - used:
        yield f"{name} is {fields[name]}, which is not shown"


def _read(source: Source, evidence: Path, withdrawn: Mapping[str, str]) -> str | dict[str, Any]:
    """Read a text, or the fields that are named of a record."""
    path = evidence / source.path
    if not path.resolve().is_relative_to(evidence.resolve()) or not path.is_file():
        raise ValueError("no such evidence")
    if path.suffix != ".json":
        return path.read_text()
    record = read_record(path)
    reason = withdrawn.get(str(record.get("run_record_sha256", record[SEAL])))
    if reason is not None:
        raise ValueError(f"withdrawn: {reason}")
    known = flatten(_measured(record))
    absent = [name for name in source.fields if name not in known]
    if absent or not source.fields:
        raise ValueError(f"no field {absent[0]}" if absent else "names no field of the record")
    return {name: known[name] for name in source.fields}


def _measured(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a record measured; the record of an epoch is nothing else."""
    found: Mapping[str, Any] = record if "epoch" in record else record.get("measurements", {})
    return found


def _stands_in(number: Number, texts: Sequence[str]) -> bool:
    pattern = re.compile(rf"(?<![\w.,]){re.escape(number.text)}(?![\w]|[.,]\d)", re.IGNORECASE)
    return any(pattern.search(text) for text in texts)


def kept_measurements(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Collect what a run measured, by stage, as a record of claims keeps it."""
    plain: dict[str, Any] = json.loads(json.dumps(
        {
            stage: {**record["measurements"], "wall_seconds": record["wall_seconds"]}
            for stage, record in stages.items()
        }
    ))  # fmt: skip
    return plain
