"""The model card: what the bundle is, in words and numbers that the records back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from model.llama import LlamaSettings
from tasks.checkpoint_settings import CheckpointSettings
from tasks.loss_evaluation import mean_loss
from tasks.store import Artefact

Files = Mapping[str, tuple[int, str]]


def model_card(
    settings: CheckpointSettings,
    llama: LlamaSettings,
    provenance: Mapping[str, str],
    evaluation: Artefact,
    forward: Mapping[str, Any],
    files: Files,
) -> str:
    """Write the card of a model that was trained here, as Markdown for the Hugging Face hub."""
    baselines = evaluation.index["content"]["baselines"]
    numbers = {
        "validation loss": mean_loss(evaluation).mean_nats,
        "interpolated 5-gram, same tokens": baselines["five_gram_nats"],
        "interpolated bigram, same tokens": baselines["bigram_nats"],
        "unigram, same tokens": baselines["unigram_nats"],
    }
    measured = "\n".join(
        f"| {name} | {nats:.4f} | `{evaluation.ref.short}` |" for name, nats in numbers.items()
    )
    return f"""{_front(settings)}
A {_family(llama)} of {llama.num_layers} layers trained from scratch on {settings.data_source}
({settings.data_licence}). It completes Python; it has not been tuned to follow instructions.

| measured | nats per token | record |
|---|---|---|
{measured}

{_tables(llama, forward, files)}
Made from `{provenance["source"]}`; scored in `{evaluation.ref}`.
"""


def imported_card(
    settings: CheckpointSettings,
    llama: LlamaSettings,
    source: str,
    forward: Mapping[str, Any],
    files: Files,
) -> str:
    """Write the card of a model that was made elsewhere: nothing is known of its training."""
    return f"""{_front(settings)}
A {_family(llama)} of {llama.num_layers} layers, imported from {source}. How it was trained is not
known here, and it has not been evaluated. Data, as stated on import: {settings.data_source}
({settings.data_licence}).

{_tables(llama, forward, files)}"""


def _front(settings: CheckpointSettings) -> str:
    return f"""---
license: {settings.licence.lower()}
language: code
library_name: transformers
---

# {settings.name}
"""


def _family(llama: LlamaSettings) -> str:
    return "Qwen2" if llama.attention_bias else "Llama"


def _tables(llama: LlamaSettings, forward: Mapping[str, Any], files: Files) -> str:
    architecture = "\n".join(f"| {name} | {value} |" for name, value in asdict(llama).items())
    distances = "\n".join(
        f"| {name} | {_exactly(kept['relative_l2'])} |" for name, kept in forward["files"].items()
    )
    listed = "\n".join(
        f"| {name} | {size} | `{sha256}` |" for name, (size, sha256) in sorted(files.items())
    )
    return f"""| weights | logits differ from the model's by |
|---|---|
{distances}

The distance is relative, in L2, on the tokens in `forward.json`.

| setting | value |
|---|---|
{architecture}

| file | bytes | sha256 |
|---|---|---|
{listed}
"""


def _exactly(distance: float) -> str:
    return f"{distance:.2e}" if distance else "nothing, bit for bit"
