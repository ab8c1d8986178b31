"""Describe whatever a person names: a run, an artefact, a checkpoint, a model file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.canonical import digest, file_sha256, read_object
from evidence.refs import REF_TYPES, CheckpointRef, parse_ref
from tasks.errors import ArtefactDamagedError, NotFoundError
from tasks.places import evidence
from tasks.run_record import PLAN, find_run
from tasks.store import INDEX, Artefact, open_store

MODEL_SUFFIXES = (".apr", ".gguf", ".safetensors")
PROVENANCE = (
    *("name", "description", "author", "version", "source", "license", "data_source"),
    *("data_license", "created_at", "_name_or_path", "transformers_version", "format"),
    *("general.name", "general.author", "general.license", "general.source.url"),
)
"Keys of any format that say whence a model is."


def describe(subject: str) -> dict[str, Any]:
    """Return a description as plain values.

    Raises: NotFoundError, AmbiguousError, WrongRefError, ModelFormatError, CorruptFileError,
    UnsupportedFeatureError.
    """
    if subject.partition(":")[0] in REF_TYPES:
        store = open_store()
        return _describe_artefact(store.open(store.resolve(subject)))
    path = Path(subject)
    if not path.exists() and path.suffix in MODEL_SUFFIXES:
        raise NotFoundError(f"file {path.name}", str(path.parent))
    if not path.exists() or any((each / PLAN).is_file() for each in (path, evidence() / subject)):
        run = find_run(subject)
        return {"plan": run.plan(), "record": run.record()}
    if artefact := artefact_at(path):
        return _describe_artefact(artefact)
    return describe_model(path)


def artefact_at(path: Path) -> Artefact | None:
    """Return the artefact whose directory this is, if it is one's.

    Raises: MalformedJsonError, ArtefactDamagedError.
    """
    if not (path / INDEX).is_file():
        return None
    index = read_object(path / INDEX)
    if index.get("kind") not in list(REF_TYPES):
        return None
    if not _is_index(index):
        found = f"an index with {', '.join(map(ascii, index)):.100}"
        expected = "content, and files with path, bytes and sha256"
        raise ArtefactDamagedError(path / INDEX, found, expected)
    return Artefact(parse_ref(f"{index['kind']}:{digest(index)}"), path, index)


def _is_index(index: Mapping[str, Any]) -> bool:
    files = index.get("files")
    return (
        isinstance(index.get("content"), dict)
        and isinstance(files, list)
        and all(
            isinstance(each, dict) and each.keys() == {"path", "bytes", "sha256"} for each in files
        )
        and all(isinstance(value, str | int) for each in files for value in each.values())
    )


def describe_model(path: Path) -> dict[str, Any]:
    """Describe a model file or a Hugging Face directory.

    Raises: ModelFormatError, CorruptFileError, UnsupportedFeatureError.
    """
    from model.model_file import open_model_file

    opened = open_model_file(path)
    found = opened.describe()
    metadata: Any = found.pop("metadata")
    tensors: Any = found.pop("tensors")
    lengths: Any = found.pop("num_items")
    return {
        "path": str(path),
        **found,
        "provenance": {key: metadata[key] for key in PROVENANCE if key in metadata},
        "tokenizer": _tokenizer(path, metadata, lengths),
        "metadata": metadata,
        "checksums": {
            **opened.checksums(),
            **{f"sha256 {each.name}": file_sha256(each) for each in opened.paths},
        },
        "tensors": tensors,
    }


def _tokenizer(
    path: Path, metadata: Mapping[str, Any], lengths: Mapping[str, int]
) -> dict[str, Any]:
    said = {key: value for key, value in metadata.items() if "token" in key}
    counts = {f"{key} (number)": number for key, number in lengths.items() if "token" in key}
    beside = (path if path.is_dir() else path.parent) / "tokenizer.json"
    sha256 = {f"sha256 {beside.name}": file_sha256(beside)} if beside.is_file() else {}
    return {**said, **counts, **sha256}


def _describe_artefact(artefact: Artefact) -> dict[str, Any]:
    described = {
        "ref": str(artefact.ref),
        "directory": str(artefact.directory),
        **artefact.index,
    }
    if isinstance(artefact.ref, CheckpointRef):
        return {**described, **_describe_weights(artefact)}
    return described


def _describe_weights(artefact: Artefact) -> dict[str, Any]:
    """Describe the model once, and what is particular to each of its files."""
    digests = {str(each["path"]): str(each["sha256"]) for each in artefact.index["files"]}
    # Of a file's two names the one that is the same in every checkpoint comes last, and stays.
    ordered = sorted(digests, key=lambda name: (name.startswith("model."), name))
    names = {digests[name]: name for name in ordered if name.endswith(MODEL_SUFFIXES)}
    models = {name: describe_model(artefact.directory / name) for name in sorted(names.values())}
    if not models:
        return {}
    told = next((each for each in models.values() if each["architecture"]), {})
    return {
        **{key: told[key] for key in ("architecture", "provenance", "tokenizer") if key in told},
        "weights": [_row(name, model) for name, model in models.items()],
    }


def _row(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    dtypes = ", ".join(f"{each['tensors']} {each['dtype']}" for each in model["dtypes"])
    keys = ("format", "num_tensors", "num_parameters", "size_bytes")
    return {
        "file": name,
        **{key: model[key] for key in keys},
        "dtypes": dtypes,
        "crc32": model["checksums"].get("crc32 footer"),
    }
