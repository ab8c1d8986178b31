"""What people give and what runs leave, for `fuzz` to spoil, and what reads it."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.code_problems import parse_problems
from data.removals import read_removals
from data.source import open_source
from data.tokenizer_file import read_tokenizer_file
from evidence.audit import audit
from evidence.audit_evidence import read_evidence
from evidence.canonical import digest, pretty, read_object
from evidence.records import SEAL, read_record, seal
from evidence.refs import TokensRef, parse_ref
from flows.errors import FlowError
from flows.settings import PRESETS, load_settings
from flows.use_commands import _prompt
from tasks.known_errors import KNOWN_ERRORS
from tasks.store import INDEX, Store
from tests.data.sources import fetching_in, rows_of, settings_of
from tests.evidence.told import BESIDE, rows
from tests.model.small_llama import small_tokenizer

REFUSALS = (*KNOWN_ERRORS, FlowError)
PROBLEM = {
    "task_id": "tiny/1",
    "prompt": 'def f(x):\n    """Return x."""\n',
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 1\n",
}
ROWS = [
    {"text": f"x = {number}\n", "path": f"{number}.py", "licence": "MIT"} for number in range(40)
]


def preset_seeds() -> Sequence[bytes]:
    """Take the presets that come with assay, without what is no setting."""
    texts = [path.read_text() for path in sorted(PRESETS.glob("*.toml"))]
    return [re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).encode() for text in texts]


def read_preset(path: Path) -> object:
    """Read a preset as `--preset` does."""
    return load_settings(str(path.absolute()))


def ref_seeds() -> Sequence[bytes]:
    """Write refs, whole and shortened."""
    return [f"tokens:{'0a' * 32}".encode(), b"shards:0a1b2c"]


def read_ref(path: Path) -> object:
    """Read a ref from a record."""
    return parse_ref(path.read_text(errors="surrogateescape"))


def resolve_ref(path: Path) -> object:
    """Look a ref up, as commands do."""
    text = path.read_text(errors="surrogateescape")
    ref, store = _stored()
    return store.resolve(text) if text.partition(":")[2] not in ref.digest else ref


def record_seeds() -> Sequence[bytes]:
    """Seal the record of an epoch."""
    return [pretty(seal({**row, "files": {"a": "0" * 64}})) for row in rows()]


def reseal_record(spoilt: bytes) -> bytes:
    """Seal what is still a record again."""
    try:
        record = json.loads(spoilt)
        return pretty(seal({key: value for key, value in record.items() if key != SEAL}))
    except Exception:  # noqa: BLE001  # what cannot be sealed stays as it is
        return spoilt


def evidence_seeds() -> Sequence[bytes]:
    """Write epochs and a summary of them, as somebody else would."""
    summary = {**BESIDE, "epochs": rows(), "summary": {"best_val_loss": 3.98, "status": "OK"}}
    return [json.dumps(rows()[2]).encode(), json.dumps(summary, indent=1).encode()]


def audit_file(path: Path) -> object:
    """Judge a file as `assay audit` does a directory."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copyfile(path, Path(directory) / "epoch-000.metadata.json")
        evidence = read_evidence(Path(directory))
        findings = audit(evidence, {"": 1.0})
        for error in evidence.malformed:
            raise error
        return "".join(map(str, findings)).encode()


@cache
def _stored() -> tuple[TokensRef, Store]:
    """Keep an artefact, in a store of this process."""
    store = Store(Path(tempfile.mkdtemp(prefix="assay-fuzz-")))
    with store.building("fuzz") as directory:
        (directory / "tokens-00000.bin").write_bytes(bytes(64))
        return store.commit(directory, TokensRef, {"num_tokens": 32}), store


def index_seeds() -> Sequence[bytes]:
    """Take the index of an artefact."""
    ref, store = _stored()
    return [(store.directory(ref) / INDEX).read_bytes()]


def open_artefact(path: Path) -> object:
    """Open an artefact whose index this is: it is named by its own digest."""
    index = read_object(path)
    _, store = _stored()
    ref = TokensRef(digest(index))
    directory = store.directory(ref)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        (directory / "tokens-00000.bin").write_bytes(bytes(64))
        shutil.copyfile(path, directory / INDEX)
        return store.open(ref)
    finally:
        shutil.rmtree(directory)


def text_seeds() -> Sequence[bytes]:
    """Write names to opt out, which are also a prompt."""
    return ["# names\nme/repo\nswh:1:cnt:0a0a\nhttps://github.com/You/Caf\u00e9.git\n".encode()]


def read_prompt(path: Path) -> object:
    """Read a prompt as `--prompt-file` does."""
    return _prompt(None, path)


def read_removal_list(path: Path) -> object:
    """Read a list of what was opted out."""
    return read_removals(str(path))


def problem_seeds() -> Sequence[bytes]:
    """Write problems of code."""
    lines = [{**PROBLEM, "task_id": f"tiny/{number}"} for number in range(3)]
    return ["".join(json.dumps(line) + "\n" for line in lines).encode()]


def read_problems(path: Path) -> object:
    """Read problems as an evaluation does."""
    return parse_problems(path.name, path.read_bytes())


def tokenizer_seeds() -> Sequence[bytes]:
    """Write a tokenizer."""
    return [small_tokenizer().to_str().encode()]


def table_reader(kind: str) -> Callable[[Path], object]:
    """Read every row of a table as pretokenize does."""

    def read_table(path: Path) -> object:
        settings = settings_of(
            kind,
            path,
            text_column="text",
            path_column="path",
            licence_column="licence",
            repository_column="",
            licence="",
        )
        return rows_of(open_source(settings, fetching=fetching_in(path.parent)), path)

    return read_table


def parquet_seeds() -> Sequence[bytes]:
    """Write a table in several ways."""
    seeds = []
    with tempfile.TemporaryDirectory() as directory:
        ways: tuple[dict[str, Any], ...] = (
            {"compression": "none"},
            {"compression": "zstd"},
            {"use_dictionary": False, "row_group_size": 7},
        )
        for number, options in enumerate(ways):
            path = Path(directory) / f"{number}.parquet"
            pq.write_table(pa.Table.from_pylist(ROWS), path, **options)
            seeds.append(path.read_bytes())
    return seeds


def jsonl_seeds() -> Sequence[bytes]:
    """Write a table as lines."""
    return ["".join(json.dumps(row) + "\n" for row in ROWS).encode()]


Reader = Callable[[Path], object]
Kind = tuple[
    str, Callable[[], Sequence[bytes]], tuple[Reader, ...], Callable[[bytes], bytes] | None
]

KINDS: dict[str, Kind] = {
    "preset": (".toml", preset_seeds, (read_preset,), None),
    "ref": (".txt", ref_seeds, (read_ref, resolve_ref), None),
    "record": (".json", record_seeds, (read_record,), reseal_record),
    "evidence": (".json", evidence_seeds, (audit_file,), None),
    "index": (".json", index_seeds, (open_artefact,), None),
    "text": (".txt", text_seeds, (read_prompt, read_removal_list), None),
    "problems": (".jsonl", problem_seeds, (read_problems,), None),
    "tokenizer": (".json", tokenizer_seeds, (read_tokenizer_file,), None),
    "parquet": (".parquet", parquet_seeds, (table_reader("parquet"),), None),
    "jsonl": (".jsonl", jsonl_seeds, (table_reader("jsonl"),), None),
}
"Suffix, good files, what reads them, and what puts their checksums right."
