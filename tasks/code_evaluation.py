"""What an evaluation says of the code that a model writes: does it run, does it parse."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from data.pretokenize import TokensIndex
from data.tokenizer import TOKENIZER, Tokenizer
from data.validation_texts import validation_texts
from evidence.canonical import finite
from evidence.gates import Gate, Measurements
from model.evaluation import round_weights
from model.self_check import decoding_error
from tasks.code_benchmark import ANSWERS, answer_problems, code_measurements
from tasks.code_benchmark_settings import CodeBenchmarkSettings
from tasks.decode_speed import decode_seconds
from tasks.device import choose_device, num_threads
from tasks.evaluate_settings import EvaluateSettings
from tasks.gpu import device_name
from tasks.loss_evaluation import first_ids
from tasks.runtime import RuntimeSettings
from tasks.scored_model import OpenModel
from tasks.store import Artefact
from tasks.syntax_benchmark import CONTINUATIONS, continue_definitions, syntax_measurements

MAX_TEXT_BYTES = 16_000_000
"""Of held-out documents that definitions are taken from."""

DECODING = "decoding_error"

WRITTEN_GATES = (
    Gate(
        id="evaluate.canonical",
        sentence="the solutions that come with the problems pass all of their tests",
        measured="canonical_pass_at_1",
        operator="==",
        threshold=1,
        if_measured=True,
    ),
    Gate(
        id="evaluate.nonsense",
        sentence="no test takes nonsense for a solution",
        measured="nonsense_pass_at_1",
        operator="==",
        threshold=0,
        if_measured=True,
    ),
    Gate(
        id="evaluate.inference",
        sentence="the model scored every token that it was asked for",
        measured="inference_failures",
        operator="==",
        threshold=0,
        if_measured=True,
    ),
    Gate(
        id="evaluate.decoding",
        sentence="tokens drawn one by one are chosen by what a forward pass predicts",
        measured=DECODING,
        operator="<=",
        threshold="thresholds.max_forward_error",
        if_measured=True,
    ),
)


def have_code_written(
    opened: OpenModel,
    shards: Artefact,
    tokens: Artefact | None,
    evaluate: EvaluateSettings,
    settings: CodeBenchmarkSettings,
    runtime: RuntimeSettings,
    out: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Have the model answer problems and continue held-out code, with the weights scored.

    Held-out code is known with the tokens of the shards alone. Returned is what is kept beside the
    files, and what was observed: how long a machine takes is no property of a model.

    Raises: IsolationUnavailableError, SandboxError, WrongProblemsError, MissingFileError.
    """
    if not (settings.problems or settings.syntax_prompts or settings.speed_tokens):
        return {}, {}
    model = opened.load(choose_device(runtime))
    # Before the weights are rounded, as the forward pass is looked at.
    kept = {DECODING: finite(decoding_error(model, first_ids(shards)[:-1]))}
    model = round_weights(model, evaluate.precision)
    tokenizer = Tokenizer.load(shards.directory / TOKENIZER)
    if settings.problems:
        answer_problems(model, tokenizer, settings, num_threads(runtime), out)
    if settings.syntax_prompts and tokens is not None:
        continue_definitions(model, tokenizer, held_out_texts(tokens), settings, out)
    if not settings.speed_tokens:
        return kept, {}
    seconds = decode_seconds(model, tokenizer.end_of_text_id, settings.speed_tokens)
    device = device_name(next(model.parameters()).device)
    timed = {"tokens": settings.speed_tokens, "seconds": seconds, "device": device}
    return kept, {"decoding": timed}


def held_out_texts(tokens: Artefact) -> list[str]:
    """Decode the documents that definitions are taken from."""
    index = tokens.read_index(TokensIndex)
    held_out = validation_texts(tokens.directory, index, MAX_TEXT_BYTES)
    return [text.decode("utf-8", errors="replace") for text in held_out]


def written_measurements(artefact: Artefact) -> Measurements:
    """Compute everything again from what was kept of what the model wrote."""
    content = artefact.index["content"]
    found: dict[str, float | int | str | None] = {}
    if DECODING in content:
        found[DECODING] = content[DECODING]
    failures: list[Any] = []
    if (artefact.directory / ANSWERS).is_file():
        settings = CodeBenchmarkSettings.of_record(content["code_benchmark"])
        found |= code_measurements(artefact.directory, settings)
        failures.append(found["inference_failures"])
    if (artefact.directory / CONTINUATIONS).is_file():
        found |= syntax_measurements(artefact.directory)
        failures.append(found.pop("syntax_inference_failures"))
    if failures:
        found["inference_failures"] = sum(failures)
    return found


def decoding_measurements(observed: Mapping[str, Any]) -> Measurements:
    """Say how fast the model decoded, and on what; nothing where it was not timed."""
    timed = observed.get("decoding")
    if timed is None:
        return {}
    return {
        "decode_tokens_per_second": timed["tokens"] / median(timed["seconds"]),
        "decode_device": timed["device"],
    }


def written_summary(measured: Measurements) -> str:
    """Say in a few words what came out, or nothing where nothing was asked."""
    passed = next((name for name in measured if name.endswith("_pass_at_1")), None)
    parts = []
    if passed:
        name = passed.removesuffix("_pass_at_1")
        solved = f"{measured[passed]:.1%} of {measured[f'{name}_problems']} problems"
        parts.append(f"{solved} solved")
    if "syntax_completions" in measured:
        share = f"{measured['syntax_valid_share']:.0%} of {measured['syntax_completions']}"
        parts.append(f"{share} continuations parse")
    return "".join(f"; {part}" for part in parts)
