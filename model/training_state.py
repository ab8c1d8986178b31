"""Everything that training changes, and its exact storage.

Weights are stored by the caller as a model file. Beside them go `optimizer.safetensors`, with every
state tensor named after its parameter, and `state.json`, with the counters and the generator.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypedDict, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.errors import CorruptFileError, ModelFormatError, WrongTensorsError
from model.llama import Llama, LlamaSettings, initialise
from model.optimizer import TrainOptimizer, new_optimizer
from model.ranks import Ranks, is_sharded, whole
from model.spikes import RecentUpdates
from model.train_settings import TrainSettings
from model.undrawn import undrawn

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
STATE_VERSION = 1
"""Of what the state file holds; other versions are refused."""
_COUNTERS = ("step", "tokens_seen", "cursor_rows", "num_spikes")


class _Facts(TypedDict):
    version: int
    step: int
    tokens_seen: int
    cursor_rows: int
    num_spikes: int
    recent: dict[str, list[float]]
    rng: str


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """A model, its optimizer, and how far both have come."""

    model: Llama
    optimizer: TrainOptimizer
    generator: torch.Generator
    """Drew the weights; nothing else draws yet, and whatever will must draw from it."""
    step: int
    tokens_seen: int
    cursor_rows: int
    """Training rows consumed; the next batch starts there."""
    num_spikes: int
    """Spikes that were answered."""
    recent: RecentUpdates
    """What the next step is compared with."""


def new_state(
    llama: LlamaSettings,
    train: TrainSettings,
    device: torch.device | str,
    ranks: Ranks | None = None,
) -> TrainingState:
    """Build a freshly drawn model and an optimizer that has seen nothing."""
    model = undrawn(llama)
    generator = initialise(model, train.seed)
    (ranks or Ranks()).place(model, device, train.precision)
    return TrainingState(
        model=model,
        optimizer=new_optimizer(model, train),
        generator=generator,
        step=0,
        tokens_seen=0,
        cursor_rows=0,
        num_spikes=0,
        recent=RecentUpdates(),
    )


def weights(state: TrainingState) -> dict[str, Tensor]:
    """Name every weight; the tensors are the model's own, not copies."""
    return {name: parameter.detach() for name, parameter in state.model.named_parameters()}


def state_text(state: TrainingState) -> str:
    """Write down the counters and the generator, as the state file has them."""
    facts = _Facts(
        version=STATE_VERSION,
        step=state.step,
        tokens_seen=state.tokens_seen,
        cursor_rows=state.cursor_rows,
        num_spikes=state.num_spikes,
        recent=asdict(state.recent),
        rng=base64.b64encode(state.generator.get_state().numpy().tobytes()).decode("ascii"),
    )
    return json.dumps(facts, sort_keys=True, indent=2) + "\n"


def whole_model(model: Llama) -> Llama:
    """Return a model of which this rank holds everything: itself, unless it is in parts."""
    if not is_sharded(model):
        return model
    with torch.device(next(model.parameters()).device):
        together = undrawn(model.settings)
    together.load_state_dict({name: whole(p.detach()) for name, p in model.named_parameters()})
    return together


def load_training_state(
    llama: LlamaSettings,
    train: TrainSettings,
    weights: Mapping[str, Tensor],
    directory: Path,
    device: torch.device | str,
    ranks: Ranks | None = None,
) -> TrainingState:
    """Rebuild the state that was saved, bit for bit.

    Raises: WrongTensorsError, ModelFormatError, CorruptFileError.
    """
    facts = _read_facts(directory / STATE_FILE)
    model = undrawn(llama)
    _load_weights(model, weights)
    (ranks or Ranks()).place(model, device, train.precision)
    optimizer = new_optimizer(model, train)
    optimizer_path = directory / OPTIMIZER_FILE
    tensors = read_tensors(optimizer_path)
    # Before its first update an optimizer has no state at all.
    if tensors or facts["step"]:
        optimizer.load_tensors(tensors, str(optimizer_path))
    if optimizer.num_updates() != facts["step"]:
        found = f"step is {facts['step']}"
        expected = f"{optimizer.num_updates()}, as in {OPTIMIZER_FILE}"
        raise ModelFormatError(directory / STATE_FILE, found, expected)
    return TrainingState(
        model=model,
        optimizer=optimizer,
        generator=_read_generator(directory / STATE_FILE, facts["rng"]),
        step=facts["step"],
        tokens_seen=facts["tokens_seen"],
        cursor_rows=facts["cursor_rows"],
        num_spikes=facts["num_spikes"],
        recent=RecentUpdates(**facts["recent"]),
    )


def _load_weights(model: Llama, weights: Mapping[str, Tensor]) -> None:
    own = dict(model.named_parameters())
    missing = tuple(sorted(own.keys() - weights.keys()))
    unexpected = tuple(sorted(weights.keys() - own.keys()))
    shared = sorted(own.keys() & weights.keys())
    misshapen = tuple(name for name in shared if own[name].shape != weights[name].shape)
    if missing or unexpected or misshapen:
        raise WrongTensorsError("weights", missing, unexpected, misshapen)
    model.load_state_dict(dict(weights))


def _read_facts(path: Path) -> _Facts:
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptFileError(path, f"no JSON ({error})", "one JSON object") from error
    if isinstance(facts, dict) and facts.get("version", STATE_VERSION) != STATE_VERSION:
        raise ModelFormatError(path, f"version is {facts['version']!r}", f"{STATE_VERSION}")
    expected = {"version", *_COUNTERS, "recent", "rng"}
    if not isinstance(facts, dict) or facts.keys() != expected:
        found = f"keys {sorted(facts)}" if isinstance(facts, dict) else "no object"
        raise ModelFormatError(path, found, f"an object with keys {sorted(expected)}")
    for name in _COUNTERS:
        if type(facts[name]) is not int or facts[name] < 0:
            found = f"{name} is {facts[name]!r}"
            raise ModelFormatError(path, found, "an integer of at least 0")
    _check_recent(path, facts["recent"])
    return cast("_Facts", facts)


def _check_recent(path: Path, recent: object) -> None:
    names = {field.name for field in fields(RecentUpdates)}
    if not isinstance(recent, dict) or recent.keys() != names:
        raise ModelFormatError(path, f"recent is {recent!r}", f"lists of {sorted(names)}")
    for name, values in recent.items():
        if not isinstance(values, list) or not all(type(value) is float for value in values):
            raise ModelFormatError(path, f"recent.{name} is {values!r}", "a list of numbers")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises: CorruptFileError.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorruptFileError(path, f"not readable ({error})", "a safetensors file") from error


def _read_generator(path: Path, text: str) -> torch.Generator:
    generator = torch.Generator()
    try:
        raw = bytearray(base64.b64decode(text, validate=True))
        generator.set_state(torch.frombuffer(raw, dtype=torch.uint8))
    except (ValueError, RuntimeError, TypeError) as error:
        raise CorruptFileError(path, f"rng not readable ({error})", "a generator") from error
    return generator
