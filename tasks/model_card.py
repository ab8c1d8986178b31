"""The model card: what the bundle is, in words that the records back."""

from collections.abc import Mapping
from typing import Any

from tasks.store import Artefact


def model_card(
    settings: Mapping[str, Any],
    llama: Mapping[str, Any],
    provenance: Mapping[str, str],
    evaluation: Artefact,
) -> str:
    """Write the card as Markdown with the front matter that the Hugging Face hub reads."""
    content = evaluation.index["content"]
    family = "Qwen2" if llama["attention_bias"] else "Llama"
    architecture = "\n".join(f"| {name} | {value} |" for name, value in llama.items())
    return f"""---
license: {settings["licence"].lower()}
language: code
library_name: transformers
---

# {settings["name"]}

A {family} of {llama["num_layers"]} layers trained from scratch on {settings["data_source"]}
({settings["data_licence"]}). It completes Python; it has not been tuned to follow instructions.

| measured | nats per token |
|---|---|
| validation loss | {content["recorded_val_loss"]:.4f} |
| interpolated bigram, same tokens | {content["baselines"]["bigram_nats"]:.4f} |
| unigram, same tokens | {content["baselines"]["unigram_nats"]:.4f} |

| setting | value |
|---|---|
{architecture}

Made from `{provenance["source"]}`; scored in `{evaluation.ref}`.
"""
