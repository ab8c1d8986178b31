"""Say why a stage would run again, or why it would not: its recipe beside the closest in the store.

Stages are looked at in their order, because the inputs of one are what the one before has made.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evidence.canonical import dumps, loads
from evidence.records import STAGES, Difference, Recipe, differences, stage_file
from evidence.refs import parse_ref
from flows.settings import PipelineSettings
from tasks import bisection, checkpoint, evaluate, pretokenize, shard, train
from tasks.recipes import Made
from tasks.run_record import Run
from tasks.schemas import require_shape
from tasks.snapshots import latest_snapshot
from tasks.stage import work_name
from tasks.store import Store

Inputs = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A training of the same recipe that has left a snapshot here."""

    snapshot: str
    step: int
    num_steps: int
    directory: str
    is_under_way: bool


@dataclass(frozen=True, slots=True)
class Why:
    """What the store knows of a stage's recipe."""

    stage: str
    recipe_sha256: str
    reused_from: str | None
    "The run that made it, if the store has what this recipe makes."
    output: str | None
    closest_run: str | None
    "The run whose recipe differs in the fewest places, of those that differ."
    differences: tuple[Difference, ...]
    unfinished: Unfinished | None = None
    "What it would go on from."

    def as_record(self) -> dict[str, Any]:
        """Write it as plain values."""
        return asdict(self)


def why_planned(store: Store, settings: PipelineSettings, stage: str) -> Why:
    """Say what would become of a stage of these settings."""
    for name, recipe, made in _planned(store, settings):
        if name == stage:
            return _why(store, recipe, made)
    raise AssertionError


def why_recorded(store: Store, run: Run, stage: str) -> Why | None:
    """Say what became of a stage of a run; nothing if it has no record."""
    record = run.stage_records().get(stage)
    if record is None:
        return None
    require_shape("stage", record, run.directory / stage_file(stage))
    recipe = Recipe(**record["recipe"])
    source = record.get("reused_from")
    if record["output"] is None or source is None:
        return _why(store, recipe, None)
    return _why(store, recipe, Made(parse_ref(record["output"]), source, {}))


def _planned(store: Store, settings: PipelineSettings) -> Iterator[tuple[str, Recipe, Made | None]]:
    """Yield the stages in their order, with what the store has of each."""
    outputs: dict[str, str] = {}
    for stage in STAGES:
        recipe = RECIPES[stage](store, settings, outputs)
        made = store.find(recipe)
        outputs[stage] = str(made.ref) if made else f"what {stage} would make"
        yield stage, recipe, made


def _pretokenize(_store: Store, settings: PipelineSettings, _outputs: Inputs) -> Recipe:
    corpus = pretokenize.open_corpus(
        settings.source,
        settings.filters,
        settings.tokenizer,
        settings.pretokenize,
        settings.runtime,
    )
    return pretokenize.recipe(corpus)


def _evaluate(store: Store, settings: PipelineSettings, outputs: Inputs) -> Recipe:
    model, shards = {"training": outputs["train"]}, outputs["shard"]
    is_made = shards.startswith("shards:")
    tokens = store.origin(parse_ref(shards)).get("tokens") if is_made else outputs["pretokenize"]
    return evaluate.recipe(model, shards, tokens, settings.evaluate, settings.code_benchmark)


RECIPES: dict[str, Callable[[Store, PipelineSettings, Inputs], Recipe]] = {
    "pretokenize": _pretokenize,
    "shard": lambda _, settings, outputs: shard.recipe(
        outputs["pretokenize"], settings.shard, settings.pretokenize.bounds
    ),
    "train": lambda _, settings, outputs: train.recipe(
        outputs["shard"], settings.model, settings.train
    ),
    "evaluate": _evaluate,
    "checkpoint": lambda _, settings, outputs: checkpoint.recipe(
        outputs["evaluate"], settings.checkpoint
    ),
    "bisect": lambda _, settings, outputs: bisection.recipe(
        outputs["checkpoint"], settings.thresholds
    ),
}


def _why(store: Store, recipe: Recipe, made: Made | None) -> Why:
    closest, found = _closest(store, recipe)
    return Why(
        recipe.stage,
        recipe.digest,
        made.run if made else None,
        str(made.ref) if made else None,
        closest.run if closest and not made else None,
        () if made else tuple(found),
        None if made else _unfinished(store, recipe),
    )


def _unfinished(store: Store, recipe: Recipe) -> Unfinished | None:
    """Find what a training of this recipe, stopped or killed, has left on this machine."""
    if recipe.stage != "train":
        return None
    directory = store.root / "tmp" / work_name(recipe)
    found = latest_snapshot(directory)
    if found is None:
        return None
    settings: Any = recipe.settings
    num_steps = int(settings["train"]["num_steps"])
    step, is_held = int(found.read()["step"]), store.is_held(directory.name)
    return Unfinished(found.name, step, num_steps, str(directory), is_held)


def _closest(store: Store, recipe: Recipe) -> tuple[Made | None, list[Difference]]:
    """Return the recipe of the stage that differs in the fewest places, the newest of several."""
    own: Any = loads(dumps(recipe.as_record()), "recipe")
    others = [(each, differences(each.recipe, own)) for each in store.made_by(recipe.stage)]
    apart = [(each, found) for each, found in others if found]
    return min(apart, key=lambda pair: len(pair[1]), default=(None, []))
