"""Held-out definitions that a model continues, and whether what it writes can be parsed.

A prompt is the first tokens of a definition at the top level of a held-out document. Beside the
model's continuation stand two controls of as many tokens: the document's own, and that shuffled.
A continuation that adds no whole line of code (blank lines and comments parse behind anything)
shows nothing, and is not counted as valid.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.syntax import is_beginning, passages
from data.tokenizer import Tokenizer
from evidence.gates import Measurements
from model.llama import Llama
from tasks.code_benchmark_settings import CodeBenchmarkSettings
from tasks.completion import complete_all, decode, encode

CONTINUATIONS = "continuations.parquet"
_SHUFFLE_SEED = 1
_MAX_TOKEN_CHARACTERS = 16
"""On average over a passage; so much text has the tokens that are asked for."""


def continue_definitions(
    model: Llama,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    settings: CodeBenchmarkSettings,
    out: Path,
) -> None:
    """Have definitions of held-out documents continued; keep what was written and what parses."""
    num_prompt, num_tokens = settings.syntax_prompt_tokens, settings.syntax_tokens
    room = _MAX_TOKEN_CHARACTERS * (num_prompt + num_tokens)
    chosen = passages(texts, settings.syntax_prompts, min_characters=room)
    ids = encode(tokenizer, [passage.text[:room] for passage in chosen])
    prompts = [each[:num_prompt] for each in ids]
    true = [each[num_prompt : num_prompt + num_tokens] for each in ids]
    completions = complete_all(
        model, tokenizer, prompts, num_tokens=num_tokens, sampling=settings.sampling
    )
    generator = np.random.default_rng(_SHUFFLE_SEED)

    rows = []
    for passage, prompt, rest, completion in zip(chosen, prompts, true, completions, strict=True):
        shuffled = generator.permutation(rest).tolist()
        begun = decode(tokenizer, prompt)
        rows.append(
            {
                "document": passage.document,
                "line": passage.line,
                "prompt": begun,
                "continuation": completion.text,
                "is_sound": completion.is_sound,
                "is_valid": completion.is_sound
                and _is_valid(begun, completion.text, is_cut=completion.is_cut),
                "is_true_valid": _is_valid(begun, decode(tokenizer, rest), is_cut=True),
                "is_shuffled_valid": _is_valid(begun, decode(tokenizer, shuffled), is_cut=True),
            }
        )
    # Where no document has a definition as long as that there is nothing to say.
    if rows:
        pd.DataFrame(rows).to_parquet(out / CONTINUATIONS, index=False)


def _is_valid(prompt: str, continuation: str, *, is_cut: bool) -> bool:
    *whole, rest = continuation.split("\n")
    lines = whole if is_cut else [*whole, rest]
    adds_code = any(line.strip() and not line.strip().startswith("#") for line in lines)
    return adds_code and is_beginning(prompt + continuation, is_cut=is_cut)


def syntax_measurements(directory: Path) -> Measurements:
    """Compute the shares again from what was kept."""
    table = pd.read_parquet(directory / CONTINUATIONS)
    return {
        "syntax_completions": len(table),
        "syntax_valid_share": float(table["is_valid"].mean()),
        "syntax_true_share": float(table["is_true_valid"].mean()),
        "syntax_shuffled_share": float(table["is_shuffled_valid"].mean()),
        "syntax_inference_failures": int((~table["is_sound"]).sum()),
    }
