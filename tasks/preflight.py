"""Refuse what cannot go together before anything is computed."""

import hashlib
from pathlib import Path

from data.pretokenize import TokensIndex
from data.shard import ShardSettings, ShardsIndex
from data.tokenizer import TOKENIZER
from model.llama import LlamaSettings
from model.train_settings import TrainSettings
from tasks.errors import PreflightError
from tasks.evaluate_errors import DifferentTokenizerError
from tasks.snapshots import MAX_EPOCHS


def check_held_out(
    tokens: TokensIndex,
    fraction: float,
    shard: ShardSettings,
    train: TrainSettings,
    min_val_batches: float,
) -> None:
    """Refuse held-out documents that are too short for the validation that training asks for.

    Where rows hold whole documents, how many rows there are is known only once they are cut.

    Raises: PreflightError.
    """
    row_tokens = shard.context_length + 1
    num_rows = (tokens.num_tokens - tokens.num_train_tokens) // row_tokens
    num_wanted = min_val_batches * train.batch_rows
    if shard.packing == "concatenate" and num_rows < num_wanted:
        expected = (
            f"larger: the {tokens.num_val_documents} of {tokens.num_documents} documents that are "
            f"held out fill {num_rows} rows of {row_tokens} tokens, validation needs "
            f"{num_wanted:g} (thresholds.min_val_batches, train.batch_rows)"
        )
        raise PreflightError("pretokenize.validation_fraction", fraction, expected)


def check_fits(
    index: ShardsIndex, model: LlamaSettings, settings: TrainSettings, num_ranks: int
) -> None:
    """Refuse a model or a budget that these shards cannot serve, before any compute.

    Raises: PreflightError.
    """
    if model.vocab_size != index.vocab_size:
        expected = f"the tokenizer's {index.vocab_size}"
        raise PreflightError("model.vocab_size", model.vocab_size, expected)
    if model.max_position_embeddings < index.context_length:
        found = model.max_position_embeddings
        expected = f"at least shard.context_length ({index.context_length})"
        raise PreflightError("model.max_position_embeddings", found, expected)
    num_epochs = -(-settings.num_steps // settings.steps_per_epoch)
    if num_epochs > MAX_EPOCHS:
        expected = f"at least {-(-settings.num_steps // MAX_EPOCHS)}: at most {MAX_EPOCHS} epochs"
        raise PreflightError("train.steps_per_epoch", settings.steps_per_epoch, expected)
    if settings.batch_rows > index.train.num_rows:
        expected = f"at most the {index.train.num_rows} training rows"
        raise PreflightError("train.batch_rows", settings.batch_rows, expected)
    if settings.batch_rows % num_ranks:
        expected = f"a multiple of the {num_ranks} ranks, each of which takes as many rows"
        raise PreflightError("train.batch_rows", settings.batch_rows, expected)
    available = settings.max_passes * (index.train.num_rows // settings.batch_rows)
    if settings.num_steps > available:
        expected = (
            f"at most {available}: {index.train.num_rows} rows in batches of "
            f"{settings.batch_rows}, {settings.max_passes} passes"
        )
        raise PreflightError("train.num_steps", settings.num_steps, expected)


def check_context(index: ShardsIndex, context_length: int) -> None:
    """Refuse shards whose rows have another length than the settings say.

    Raises: PreflightError.
    """
    if index.context_length != context_length:
        expected = f"{index.context_length}, as in these shards"
        raise PreflightError("shard.context_length", context_length, expected)


def check_tokenizer(model: str, tokenizer_sha256: str, shards: Path) -> None:
    """Refuse shards whose ids another tokenizer made than the one that a model was trained with.

    Raises: DifferentTokenizerError.
    """
    found = hashlib.sha256((shards / TOKENIZER).read_bytes()).hexdigest()
    if found != tokenizer_sha256:
        raise DifferentTokenizerError(model, tokenizer_sha256[:12], found[:12])
