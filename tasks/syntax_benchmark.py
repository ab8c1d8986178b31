"""Held-out definitions that a model continues, and whether what it writes can be parsed.

A prompt is the first tokens of a definition at the top level of a held-out document. Beside the
model's continuation stand two controls of as many tokens: the document's own, and that shuffled.
A continuation that adds no whole line of code (blank lines and comments parse behind anything)
shows nothing, and is not counted as valid.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class Definition:
    """The beginning of a definition, as ids, and as many of the document's own as are asked for."""

    document: int
    line: int
    prompt: list[int]
    rest: list[int]


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote behind a prompt, as it is kept."""

    prompt: str
    continuation: str
    is_sound: bool
    is_valid: bool


def continue_definitions(
    model: Llama,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    settings: CodeBenchmarkSettings,
    out: Path,
) -> None:
    """Have definitions of held-out documents continued; keep what was written and what parses."""
    definitions = held_out_definitions(tokenizer, texts, settings)
    generator = np.random.default_rng(_SHUFFLE_SEED)

    rows = []
    for definition, found in zip(
        definitions, continuations(model, tokenizer, definitions, settings), strict=True
    ):
        begun, rest = decode(tokenizer, definition.prompt), definition.rest
        shuffled = generator.permutation(rest).tolist()
        rows.append(
            {
                "document": definition.document,
                "line": definition.line,
                **asdict(found),
                "is_true_valid": _is_valid(begun, decode(tokenizer, rest), is_cut=True),
                "is_shuffled_valid": _is_valid(begun, decode(tokenizer, shuffled), is_cut=True),
            }
        )
    # Where no document has a definition as long as that there is nothing to say.
    if rows:
        pd.DataFrame(rows).to_parquet(out / CONTINUATIONS, index=False)


def held_out_definitions(
    tokenizer: Tokenizer, texts: Sequence[str], settings: CodeBenchmarkSettings
) -> list[Definition]:
    """Take the beginnings of definitions, spread over held-out documents."""
    num_prompt = settings.syntax_prompt_tokens
    end = num_prompt + settings.syntax_tokens
    room = _MAX_TOKEN_CHARACTERS * end
    chosen = passages(texts, settings.syntax_prompts, min_characters=room)
    ids = encode(tokenizer, [passage.text[:room] for passage in chosen])
    return [
        Definition(passage.document, passage.line, each[:num_prompt], each[num_prompt:end])
        for passage, each in zip(chosen, ids, strict=True)
    ]


def continuations(
    model: Llama,
    tokenizer: Tokenizer,
    definitions: Sequence[Definition],
    settings: CodeBenchmarkSettings,
    chosen: Sequence[int] | None = None,
) -> list[Continuation]:
    """Have all definitions continued, or those at the chosen places among them."""
    prompts = [definition.prompt for definition in definitions]
    completions = complete_all(
        model,
        tokenizer,
        prompts,
        num_tokens=settings.syntax_tokens,
        sampling=settings.sampling,
        chosen=chosen,
    )
    places = range(len(prompts)) if chosen is None else chosen
    found = []
    for place, written in zip(places, completions, strict=True):
        begun = decode(tokenizer, prompts[place])
        parses = written.is_sound and _is_valid(begun, written.text, is_cut=written.is_cut)
        found.append(Continuation(begun, written.text, written.is_sound, parses))
    return found


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
