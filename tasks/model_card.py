"""The model card: what the bundle is, in words and numbers that the records back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evidence.gates import Measurements
from evidence.refs import Ref
from model.llama import LlamaSettings
from tasks.checkpoint_settings import CheckpointSettings

Files = Mapping[str, tuple[int, str]]

LABELS = {
    "val_loss": "validation loss, nats per token",
    "val_bits_per_byte": "validation loss, bits per byte",
    "five_gram_nats": "interpolated 5-gram, same tokens, nats per token",
    "bigram_nats": "interpolated bigram, same tokens, nats per token",
    "unigram_nats": "unigram, same tokens, nats per token",
    "humaneval_pass_at_1": "HumanEval, pass@1",
    "syntax_valid_share": "completions that are valid Python, share",
}
"What the card tells of an evaluation, as far as it was measured."


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation measured, and where that is recorded."""

    ref: Ref
    epoch: int
    measured: Measurements


def model_card(
    settings: CheckpointSettings,
    llama: LlamaSettings,
    provenance: Mapping[str, str],
    evaluated: Evaluated,
    forward: Mapping[str, Any],
    files: Files,
) -> str:
    """Write the card of a model that was trained here, as Markdown for the Hugging Face hub."""
    return f"""{_front(settings)}
A {_family(llama)} of {llama.num_layers} layers trained from scratch on {settings.data_source}
({settings.data_licence}). It completes Python; it has not been tuned to follow instructions.

| measured | | record |
|---|---|---|
{_measured(evaluated)}

{_tables(llama, forward, files)}
Made from `{provenance["source"]}`; scored in `{evaluated.ref}`. The record of that evaluation has
every figure with its settings, its gates and the machine that it was measured on.
"""


def _measured(evaluated: Evaluated) -> str:
    found = evaluated.measured
    rows = (
        f"| {label} | {found[key]:.4f}{_margin(found.get(f'{key}_standard_error'))} "
        f"| `{evaluated.ref.short}` |"
        for key, label in LABELS.items()
        if key in found
    )
    return "\n".join(rows)


def _margin(standard_error: float | int | str | None) -> str:
    return "" if standard_error is None else f" ± {standard_error:.4f}"


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
