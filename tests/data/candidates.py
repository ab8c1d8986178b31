"""Candidates and settings for tests of filters: everything passes unless a test says otherwise."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from data.candidates import CANDIDATES
from data.filter_settings import FilterSettings

CODE = b"def area(width, height):\n    return width * height\n"
PERMISSIVE: Mapping[str, Any] = {
    "max_file_bytes": 1_000_000,
    "min_document_bytes": 1,
    "allowed_licences": (),
    "drop_vendored": True,
    "drop_generated": True,
    "max_lines": 10_000,
    "max_mean_line_length": 100.0,
    "max_line_length": 1000,
    "min_alphabetic_share": 0.0,
    "max_encoded_run": 1024,
    "max_encoded_share": 0.5,
    "normalization": "none",
    "must_parse": False,
    "drop_secrets": True,
    "personal_data": "keep",
    "decontaminate": (),
    "decontamination_ngram": 10,
    "near_duplicates": "drop",
    "near_duplicate_jaccard": 0.85,
    "minhash_seed": 42,
}


def filter_settings(**changes: Any) -> FilterSettings:
    return FilterSettings(**{**PERMISSIVE, **changes})


def candidates(contents: Sequence[bytes | None], **columns: Sequence[Any]) -> Any:
    """A batch of candidates named 0.py, 1.py, ..."""
    names = [str(number) for number in range(len(contents))]
    values: dict[str, Sequence[Any]] = {
        "row": range(100, 100 + len(contents)),
        "path": [f"{name}.py" for name in names],
        "repository": ["someone/something"] * len(contents),
        "revision": ["main"] * len(contents),
        "blob_id": [f"blob {name}" for name in names],
        "content_id": [f"content {name}" for name in names],
        "licences": [["MIT"]] * len(contents),
        "is_vendored": [False] * len(contents),
        "is_generated": [False] * len(contents),
        "encoding": ["utf-8"] * len(contents),
        "content": contents,
        "absence": [""] * len(contents),
    }
    arrays = {name: pa.array(values[name], CANDIDATES.field(name).type) for name in values}
    for name, column in columns.items():
        arrays[name] = pa.array(column, CANDIDATES.field(name).type)
    return pa.RecordBatch.from_pydict(arrays, schema=CANDIDATES)
