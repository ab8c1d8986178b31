"""A training by hand: a form with every setting of model and training, each with its description.

The form is made of the settings' own types and of what stands below each field in their source, so
neither can lag behind. An empty field keeps the preset's value.
"""

import ast
import inspect
import textwrap
from typing import Annotated, Any, Literal, get_type_hints

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, create_model

from flows.approval import wait_for_approval
from flows.run import Finished
from flows.settings import load_settings, preset_names
from flows.stages import train_flow
from model.llama import LlamaSettings
from model.train_settings import TrainSettings


def form_of(section: str, settings_type: type) -> type[BaseModel]:
    """Make a form of settings: every field optional, with the type that it has there."""
    said = descriptions(settings_type)
    fields: dict[str, Any] = {
        name: (kind | None, Field(None, description=said.get(name, f"As {section}.{name}.")))
        for name, kind in get_type_hints(settings_type).items()
    }
    strict = ConfigDict(extra="forbid", strict=True)
    return create_model(f"{section.capitalize()} settings", __config__=strict, **fields)


def descriptions(settings_type: type) -> dict[str, str]:
    """Return what stands as a string below each field of a class, in its source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(settings_type))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            said = after.value if isinstance(after, ast.Expr) else None
            if isinstance(said, ast.Constant) and isinstance(said.value, str):
                found[field.target.id] = said.value
    return found


ModelForm: Any = form_of("model", LlamaSettings)
TrainForm: Any = form_of("train", TrainSettings)
Preset: Any = Literal[preset_names()]
ShardsText = Annotated[str, Field(pattern="^shards:[0-9a-f]{2,64}$")]


@flow(name="training", flow_run_name="{name}: train on {shards} by {preset}", persist_result=False)
def train_form_flow(
    shards: ShardsText,
    name: str = "train",
    preset: Preset = "demo",
    train: TrainForm = TrainForm(),  # noqa: B008  # the form, empty
    model: ModelForm = ModelForm(),  # noqa: B008
    ask_first: bool = False,  # noqa: FBT001, FBT002
) -> Finished:
    """Train a model on shards; an interrupted training of the same settings goes on.

    Args:
        shards: The ref of shards, or the beginning of one.
        name: The first part of the run's name; the day is added.
        preset: Gives the settings that are left empty below.
        train: Settings of the training.
        model: Settings of the model.
        ask_first: Wait until somebody resumes the run before it begins.
    """
    overrides = (*_overrides("train", train), *_overrides("model", model))
    if ask_first:
        wait_for_approval(load_settings(preset, overrides))
    return train_flow.fn(name, preset, shards, overrides)


def _overrides(section: str, form: BaseModel) -> list[str]:
    chosen = form.model_dump(exclude_none=True)
    return [f"{section}.{name}={_toml(value)}" for name, value in chosen.items()]


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
