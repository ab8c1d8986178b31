"""Import: make a checkpoint of a model that was trained elsewhere.

Its weights are kept value for value, its tokenizer byte for byte. What is not known (how it was
trained, how well it does) is not said.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evidence.canonical import digest, file_sha256, pretty
from evidence.refs import CheckpointRef
from model.apr_file import VOCABULARY_KEY
from model.architecture import family, parse_tokenizer
from model.errors import ModelFormatError
from model.hugging_face import TOKENIZER_FILE
from model.hugging_face_config import DTYPES
from model.llama import LlamaSettings
from model.model_file import ModelFile, open_model_file
from tasks.bundle import Sealable, seal, weights_files
from tasks.checkpoint_settings import CheckpointSettings
from tasks.errors import NotFoundError
from tasks.first_forward import FEWEST_TOKENS, write_record
from tasks.model_card import imported_card
from tasks.publish_bundle import finish
from tasks.store import open_store

PROBE_TEXT = "def main():\n    for line in lines:\n        print(line.strip())\n"
BESIDES = (
    *(TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json"),
    *("generation_config.json", "added_tokens.json", "chat_template.jinja"),
)
"What a Hugging Face directory says of its tokenizer; kept as it is."
OF_FORMAT = {
    "apr": "tokenizer.{end}_token_id",
    "gguf": "tokenizer.ggml.{end}_token_id",
    "huggingface": "{end}_token_id",
}


def import_model(
    source: Path, settings: CheckpointSettings, tokenizer: Path | None
) -> CheckpointRef:
    """Make a checkpoint of a directory or a file; safetensors keep the dtype of the source.

    `tokenizer` is a `tokenizer.json`, or a directory with one; default: beside the weights.

    Raises: NotFoundError, ModelFormatError, CorruptFileError, UnsupportedFeatureError,
    WrongTensorsError (with all that is missing or too much), UnfaithfulFileError.
    """
    if not source.exists():
        raise NotFoundError(f"file or directory {source.name}", str(source.absolute().parent))
    opened = open_model_file(source)
    llama, tensors = opened.read_model()
    beside = _tokenizer_directory(source, tokenizer)
    tokenizer_json = _read_text(beside / TOKENIZER_FILE)
    _require_own_tokenizer(opened, llama, beside / TOKENIZER_FILE, tokenizer_json)
    model = Sealable(
        llama=llama,
        tensors=tensors,
        tokenizer_json=tokenizer_json,
        ends=_ends(opened, llama),
        provenance={"name": settings.name, "license": settings.licence, "source": source.name},
    )
    settings = replace(settings, safetensors_dtype=_dtype_name(tensors))
    store = open_store()
    store.check_writable()
    with store.building("import") as out:
        content = _write(out, model, settings, opened, beside)
        return store.commit(out, CheckpointRef, content)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ModelFormatError(path, "not UTF-8", "a tokenizer.json") from None


def _write(
    out: Path, model: Sealable, settings: CheckpointSettings, opened: ModelFile, beside: Path
) -> dict[str, Any]:
    for name in BESIDES:
        if (beside / name).is_file():
            shutil.copyfile(beside / name, out / name)
    generation = out / "generation_config.json"
    if not generation.exists():
        generation.write_bytes(pretty(model.ends))
    tokenizer = parse_tokenizer(beside / TOKENIZER_FILE, model.llama, model.tokenizer_json)
    probe = tokenizer.encode(PROBE_TEXT, add_special_tokens=False).ids
    probe = probe[: model.llama.max_position_embeddings]
    if len(probe) < FEWEST_TOKENS:
        found = f"{len(probe)} tokens of {model.llama.max_position_embeddings} for {PROBE_TEXT!r}"
        raise ModelFormatError(beside / TOKENIZER_FILE, found, f"{FEWEST_TOKENS} or more")
    files = list(weights_files(out, model, settings))
    record = seal(files, model, [probe])
    write_record(out, record)
    origin = [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in opened.paths
    ]
    sums = [str(each["sha256"]) for each in origin]
    finish(
        out,
        settings,
        tokenizer_json=model.tokenizer_json,
        facts={
            "version": (sums[0] if len(sums) == 1 else digest(sums))[:12],
            "architecture": family(model.llama),
            "provenance": {
                "pipeline": "assay import",
                "parent": f"{model.provenance['source']}, sha256 {', '.join(sums)}",
                "parent_license": settings.licence,
            },
        },
        card=lambda listed: imported_card(
            settings,
            model.llama,
            f"`{model.provenance['source']}` ({opened.format})",
            record,
            listed,
        ),
    )
    return {
        "name": settings.name,
        "imported": {"format": opened.format, "files": origin},
        "lossless": [file.path.name for file in files if file.is_lossless],
        "recorded_loss_nats": sum(record["losses_nats"]) / len(record["losses_nats"]),
    }


def _tokenizer_directory(source: Path, tokenizer: Path | None) -> Path:
    place = tokenizer or source
    if tokenizer is not None and tokenizer.is_file() and tokenizer.name != TOKENIZER_FILE:
        expected = f"a {TOKENIZER_FILE}, or a directory with one"
        raise ModelFormatError(tokenizer, "a file of another name", expected)
    directory = place if place.is_dir() else place.parent
    if not (directory / TOKENIZER_FILE).is_file():
        error = NotFoundError(TOKENIZER_FILE, str(directory))
        error.hint = f"`--tokenizer PATH` names a {TOKENIZER_FILE} that is elsewhere"
        raise error
    return directory


def _require_own_tokenizer(
    opened: ModelFile, llama: LlamaSettings, path: Path, tokenizer_json: str
) -> None:
    """Refuse a tokenizer of other tokens than the file says its ids stand for."""
    ids = parse_tokenizer(path, llama, tokenizer_json).get_vocab(with_added_tokens=True)
    said = opened.metadata.get(VOCABULARY_KEY, opened.metadata.get("tokenizer.ggml.tokens"))
    if not isinstance(said, list):
        return
    for token, number in sorted(ids.items(), key=lambda item: item[1]):
        # Rows beyond the last token have whatever name their writer gives them.
        if number >= len(said) or said[number] != token:
            found, expected = (
                f"token {number} is {token!r:.60}",
                f"{said[number : number + 1]!r:.60}",
            )
            raise ModelFormatError(path, found, f"{expected}, as {opened.paths[0].name} says")


def _dtype_name(tensors: Mapping[str, Tensor]) -> Any:
    """Keep the dtype of the matrices if it is one for all, else store them in float32."""
    found = {tensor.dtype for tensor in tensors.values() if tensor.ndim > 1}
    named = {dtype: name for name, dtype in DTYPES.items()}
    return named.get(found.pop(), "float32") if len(found) == 1 else "float32"


def _ends(opened: ModelFile, llama: LlamaSettings) -> dict[str, object]:
    """Return the ids of what begins and ends a text, as far as the model says them."""
    keys = {f"{end}_token_id": OF_FORMAT[opened.format].format(end=end) for end in ("bos", "eos")}
    ends = {key: opened.metadata[said] for key, said in keys.items() if said in opened.metadata}
    for key, ids in ends.items():
        for each in ids if isinstance(ids, list) else [ids]:
            # None says that there is none; bool is a subclass of int, hence not isinstance.
            if each is not None and not (type(each) is int and 0 <= each < llama.vocab_size):
                found, expected = f"{key} is {ids!r:.60}", f"ids below {llama.vocab_size}"
                raise ModelFormatError(opened.paths[0].parent, found, expected)
    return ends
