"""What a model hub wants beside the weights: licence, vocabulary, manifest, and files by name.

Source: the twelve files and the manifest (AC-PM) that aprender's models are published with.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from evidence.canonical import file_sha256
from model.errors import ModelError
from model.hugging_face import TOKENIZER_FILE, WEIGHTS_FILE
from model.hugging_face_config import CONFIG_FILE, read_config
from model.safetensors_file import DTYPES, open_safetensors
from tasks.checkpoint_settings import CheckpointSettings, is_licence
from tasks.directories import digests
from tasks.models import APR
from tasks.store import Artefact

CARD, LICENCE, MANIFEST, RECIPE = "README.md", "LICENSE", "manifest.yaml", "recipe.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
REQUIRED = ("model_id", "version", "architecture", "format", "quantization", "sha256")
REQUIRED_OF_PROVENANCE = ("pipeline", "parent", "data_source", "data_license")
MAX_MANIFEST_BYTES = 1 << 20

Files = Mapping[str, tuple[int, str]]
"Size and sha256 by name."


def published_files(name: str) -> tuple[str, ...]:
    """List the files that a published model has at least."""
    return (
        *(CARD, LICENCE, CONFIG_FILE, "generation_config.json", TOKENIZER_FILE),
        *("tokenizer_config.json", VOCABULARY, MERGES, WEIGHTS_FILE),
        *(f"{name}.safetensors", f"{name}.apr", f"{name}-q4k.gguf"),
    )


def write_vocabulary(out: Path, tokenizer_json: str) -> None:
    """Write the tokenizer's tokens and merges in the form of GPT-2's files."""
    model: Any = json.loads(tokenizer_json)["model"]
    (out / VOCABULARY).write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", "utf-8")
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (out / MERGES).write_text("\n".join(("#version: 0.2", *merges)) + "\n", "utf-8")


def write_licence(out: Path, name: str, licence: str) -> None:
    """Say under which licence the weights are given on, and where its text is."""
    text = (
        f"SPDX-License-Identifier: {licence}\n\n"
        f"The weights of {name} in this directory are given on under {licence}.\n"
        f"Its text: https://spdx.org/licenses/{licence.split(maxsplit=1)[0]}.html\n"
    )
    (out / LICENCE).write_text(text)


def name_weights(out: Path, name: str) -> None:
    """Give the weights the model's name, too; no byte is stored twice where links are possible."""
    for file in (APR, WEIGHTS_FILE):
        named = out / f"{name}.{file.rpartition('.')[2]}"
        try:
            os.link(out / file, named)
        except OSError:
            shutil.copyfile(out / file, named)


def listed_files(artefact: Artefact) -> Files:
    """Return size and sha256 of an artefact's files as its index has them."""
    return {
        str(entry["path"]): (int(entry["bytes"]), str(entry["sha256"]))
        for entry in artefact.index["files"]
    }


def write_manifest(
    out: Path, settings: CheckpointSettings, facts: Mapping[str, object], files: Files
) -> None:
    """Write the manifest; whoever publishes adds `artifact_url`, `published_at`, `published_by`."""
    size_bytes, sha256 = files[WEIGHTS_FILE]
    manifest = {
        "model_id": settings.name,
        **facts,
        "license": settings.licence,
        "format": "safetensors",
        "quantization": settings.safetensors_dtype,
        "sha256": sha256,
        "size_bytes": size_bytes,
        "files": [
            {"name": name, "size_bytes": size, "sha256": sha256}
            for name, (size, sha256) in sorted(files.items())
        ],
    }
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    (out / MANIFEST).write_text(text, "utf-8")


def finish(
    out: Path,
    settings: CheckpointSettings,
    *,
    tokenizer_json: str,
    facts: Mapping[str, Any],
    card: Callable[[Files], str],
) -> None:
    """Write all that comes after the weights; the manifest is last, since it lists the rest."""
    write_vocabulary(out, tokenizer_json)
    write_licence(out, settings.name, settings.licence)
    name_weights(out, settings.name)
    listed = digests(out)
    (out / CARD).write_text(card(listed))
    listed[CARD] = (out / CARD).stat().st_size, file_sha256(out / CARD)
    provenance = {
        **facts["provenance"],
        "data_source": settings.data_source,
        "data_license": settings.data_licence,
    }
    write_manifest(out, settings, {**facts, "provenance": provenance}, listed)


def publish_faults(directory: Path, files: Files) -> Iterator[str]:
    """Yield all that keeps a bundle of these files from being published."""
    manifest = _read_manifest(directory)
    if manifest is None:
        yield f"{MANIFEST}: not there, or no YAML mapping"
        return
    name = str(manifest.get("model_id"))
    yield from (
        f"{file}: missing from the publish bundle"
        for file in published_files(name)
        if file not in files
    )
    yield from _manifest_faults(manifest, files)
    yield from _dtype_faults(directory, manifest.get("quantization"))


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    path = directory / MANIFEST
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        return None
    try:
        manifest = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _manifest_faults(manifest: Mapping[str, Any], files: Files) -> Iterator[str]:
    provenance = manifest.get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    for key in REQUIRED:
        if not isinstance(manifest.get(key), str) or not manifest[key].strip():
            yield f"{MANIFEST}: {key} is {manifest.get(key)!r:.60}, should be a text"
    for key in REQUIRED_OF_PROVENANCE:
        if not provenance.get(key):
            yield f"{MANIFEST}: provenance.{key} is missing"
    licence = manifest.get("license")
    if not isinstance(licence, str) or not is_licence(licence):
        yield f"{MANIFEST}: license is {licence!r:.60}, should be an SPDX id"
    if recipe := provenance.get("recipe"):
        yield from _file_faults(files, {"name": recipe, "sha256": provenance.get("recipe_sha256")})
    main = {"name": WEIGHTS_FILE, **{key: manifest.get(key) for key in ("sha256", "size_bytes")}}
    listed = _entries(manifest.get("files"))
    for entry in (main, *listed):
        yield from _file_faults(files, entry)
    for name in sorted(files.keys() - {MANIFEST} - {str(entry.get("name")) for entry in listed}):
        yield f"{MANIFEST}: files lacks {name!r:.60}"


def _entries(files: object) -> list[dict[str, Any]]:
    if not isinstance(files, list):
        return []
    return [entry for entry in files if isinstance(entry, dict)]


def _file_faults(files: Files, entry: Mapping[str, Any]) -> Iterator[str]:
    """Hold a file to what the manifest says of it."""
    name = str(entry.get("name"))
    if name not in files:
        yield f"{MANIFEST}: names {name!r:.60}, which is not there"
        return
    size_bytes, sha256 = files[name]
    if entry.get("size_bytes", size_bytes) != size_bytes:
        yield f"{name}: {size_bytes} bytes, {MANIFEST} says {entry['size_bytes']!r:.60}"
    if entry.get("sha256") != sha256:
        yield f"{name}: sha256 {sha256[:12]}, {MANIFEST} says {str(entry.get('sha256'))[:12]}"


def _dtype_faults(directory: Path, declared: object) -> Iterator[str]:
    """Hold the weights to the declared dtype; norms and biases may stay wide."""
    try:
        file = open_safetensors(directory / WEIGHTS_FILE)
        _, configured = read_config(directory / CONFIG_FILE)
    except (OSError, ModelError) as error:
        yield str(error)
        return
    if declared != str(configured).removeprefix("torch."):
        yield f"{MANIFEST}: quantization is {declared!r:.60}, {CONFIG_FILE} says {configured}"
    for entry in file.tensors.values():
        if DTYPES[entry.dtype] != configured and not (
            entry.dtype == "F32" and len(entry.shape) == 1
        ):
            yield f"{WEIGHTS_FILE}: {entry.name} is {entry.dtype}, should be {declared}"
