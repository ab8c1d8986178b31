"""The loss of a model on validation rows: scored once, kept by document and by position.

`documents.parquet` and `positions.parquet` hold sums in float64; every figure that is shown is
computed from them and from the index.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.baselines import BASELINES, ORDERS, RowBaselines
from data.compression import CompressedSizes
from data.documents import DOCUMENTS, read_pieces
from data.rows import open_rows
from data.shard import SUFFIXES, ShardsIndex
from data.split import SplitName
from data.tokenizer import TOKENIZER
from evidence.canonical import digest, file_sha256, finite, read_object
from evidence.gates import Measurements
from model.evaluation import round_weights
from model.loss_statistics import LossCounter, LossStatistics, bits_per_byte, loss_statistics, ratio
from model.self_check import forward_error
from tasks.device import choose_device
from tasks.evaluate_settings import EvaluateSettings
from tasks.runtime import RuntimeSettings
from tasks.scored_model import OpenModel
from tasks.store import Artefact
from tasks.validation import Validation

LOSSES, POSITIONS = "documents.parquet", "positions.parquet"
VAL: SplitName = "val"
EDGE_SHARE = 8
"""One part in so many of a row is its beginning, and one its end."""
PLAIN_TOKENS = 16
"""On which the model is held to the plain implementation: that is slow."""
CARRIED = ("model_sha256", "validation_sha256", "tokenizer_sha256", "precision")
"What an evaluation measured, and on what, by digest."
FORWARD = "forward_error"


def score_losses(
    model: OpenModel,
    shards: Artefact,
    tokens: Artefact | None,
    settings: EvaluateSettings,
    runtime: RuntimeSettings,
    out: Path,
) -> dict[str, Any]:
    """Score a model, keep the sums, and say what was scored.

    `tokens` are those of the shards; with them it is known where documents are from.

    Raises: CorruptShardError, WrongTokenizerError, ModelFormatError.
    """
    index, device = shards.read_index(ShardsIndex), choose_device(runtime)
    validation = Validation.open(
        shards.directory,
        index,
        device=device,
        document_end=index.end_of_text_id if model.document_masking else None,
        num_rows=settings.rows,
    )
    llama = model.load(device)
    # Before the weights are rounded: what is looked at is the computation, and rounding hides it.
    error = forward_error(llama, first_ids(shards)[None])
    counter = validation.count(round_weights(llama, settings.precision))
    _write_documents(out / LOSSES, shards.directory, index, tokens, counter, validation)
    _write_positions(out / POSITIONS, counter)
    baselines: Any = read_object(shards.directory / BASELINES)
    by_row = RowBaselines.read(shards.directory, index.vocab_size)
    return {
        "shards": str(shards.ref),
        "rows": len(validation.chosen),
        "all_rows": len(validation.rows),
        "precision": settings.precision,
        FORWARD: finite(error),
        "tokenizer_sha256": file_sha256(shards.directory / TOKENIZER),
        "validation_sha256": _validation_sha256(shards, len(validation.chosen)),
        "baselines": {
            **asdict(by_row.over(validation.chosen)),
            "num_counted_tokens": baselines["num_counted_tokens"],
            "target_bytes": validation.num_bytes,
            "compressed": baselines["compressed"],
        },
    }


def first_ids(shards: Artefact) -> NDArray[np.int64]:
    """Take the tokens on which a model is held to other implementations of it.

    Shapes: (S,).
    """
    rows = open_rows(shards.directory, shards.read_index(ShardsIndex), VAL)
    return rows.ids([0])[0, : PLAIN_TOKENS + 1]


def _validation_sha256(shards: Artefact, num_rows: int) -> str:
    """Digest the scored targets: the files of the validation split, their tokenizer, the choice.

    Shards whose training rows alone differ are the same validation data.
    """
    files = {
        entry["path"]: entry["sha256"]
        for entry in shards.index["files"]
        if entry["path"].startswith(f"{VAL}/") or entry["path"] == TOKENIZER
    }
    return digest({"files": files, "rows": num_rows})


def _write_documents(
    path: Path,
    shards: Path,
    index: ShardsIndex,
    tokens: Artefact | None,
    counter: LossCounter,
    validation: Validation,
) -> None:
    """Write the loss of every validation document, in the order of the shards."""
    tables = (
        pq.read_table(shards / f"{each.name}{SUFFIXES[DOCUMENTS]}", columns=["sha256"])
        for each in index.val.shards
    )
    digests = pa.concat_tables(tables)["sha256"]
    nats, num_tokens = counter.by_document
    columns = {
        "sha256": digests,
        "nats": nats,
        "target_tokens": num_tokens,
        "target_bytes": validation.bytes_of_document,
    }
    if tokens is not None:
        origin = _origins(tokens.directory)
        columns["source"] = [origin[sha256] for sha256 in digests.to_pylist()]
    pq.write_table(pa.table(columns), path, compression="zstd")


def _origins(tokens: Path) -> dict[str, str]:
    """Name where every validation document is from: its repository, or else its top folder."""
    found: dict[str, str] = {}
    columns = ["sha256", "repository", "path", "split"]
    for piece in read_pieces(tokens / DOCUMENTS, columns):
        held_out = piece.filter(pc.equal(piece["split"], VAL))
        for each in held_out.to_pylist():
            top, slash, _ = each["path"].partition("/")
            found[each["sha256"]] = each["repository"] or (f"{top}/" if slash else "./")
    return found


def _write_positions(path: Path, counter: LossCounter) -> None:
    nats, num_tokens = counter.by_position
    positions = np.arange(1, len(nats) + 1)
    table = pa.table({"position": positions, "nats": nats, "target_tokens": num_tokens})
    pq.write_table(table, path, compression="zstd")


def mean_loss(artefact: Artefact) -> LossStatistics:
    """Compute the loss again from the sums of every document."""
    table = pq.read_table(artefact.directory / LOSSES)
    return loss_statistics(table["nats"].to_numpy(), table["target_tokens"].to_numpy())


def loss_measurements(artefact: Artefact) -> Measurements:
    """Compute the loss again from the sums of every document and position."""
    content = artefact.index["content"]
    table = pq.read_table(artefact.directory / LOSSES)
    nats, tokens, num_bytes = (
        table[name].to_numpy() for name in ("nats", "target_tokens", "target_bytes")
    )
    found = mean_loss(artefact)
    bits = ratio(nats[tokens > 0] / math.log(2), num_bytes[tokens > 0])
    return {
        **{name: content[name] for name in CARRIED},
        FORWARD: content[FORWARD],
        "val_loss": found.mean_nats,
        "val_loss_standard_error": found.standard_error_nats,
        "val_perplexity": math.exp(found.mean_nats),
        "val_tokens": found.num_tokens,
        "val_documents": found.num_documents,
        "val_rows": content["rows"],
        "val_bytes": int(num_bytes.sum()),
        "val_bits_per_byte": bits.mean,
        "val_bits_per_byte_standard_error": bits.standard_error,
        **_edges(artefact.directory),
        **_beside(content["baselines"], found.mean_nats),
        **_against_training(content, found.mean_nats),
    }


def _edges(directory: Path) -> dict[str, float]:
    """Compare targets with little before them with those that have most of a row."""
    table = pq.read_table(directory / POSITIONS)
    nats, tokens = table["nats"].to_numpy(), table["target_tokens"].to_numpy()
    width = -(-len(nats) // EDGE_SHARE)
    parts = {"row_begin": slice(None, width), "row_end": slice(len(nats) - width, None)}
    return {
        f"val_loss_{name}": float(nats[part].sum() / tokens[part].sum())
        for name, part in parts.items()
        if tokens[part].any()
    }


def _beside(baselines: Mapping[str, Any], val_loss: float) -> dict[str, float]:
    """Say what models that count and compressors need."""
    targets, num_bytes = baselines["num_target_tokens"], baselines["target_bytes"]
    counting = {name: baselines[name] for name in ("uniform_nats", *ORDERS)}
    return {
        **counting,
        **{
            name.replace("_nats", "_bits_per_byte"): bits_per_byte(nats, targets, num_bytes)
            for name, nats in counting.items()
        },
        **{f"loss_to_{name.removesuffix('_nats')}": val_loss / baselines[name] for name in ORDERS},
        **CompressedSizes(**baselines["compressed"]).bits_per_byte(),
    }


def _against_training(content: Mapping[str, Any], val_loss: float) -> dict[str, float]:
    """Compare with the loss before saving, where it was that of the same weights and rows."""
    recorded = content["recorded_val_loss"]
    is_same = content["rows"] == content["all_rows"] and content["precision"] == "float32"
    if recorded is None or not is_same:
        return {}
    return {"recorded_val_loss": recorded, "reload_drift": abs(val_loss - recorded)}
