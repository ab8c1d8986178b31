"""Settings of a pipeline: a complete TOML preset and `--set` overrides, one strict parser.

Unknown keys, missing keys and values of the wrong type are refused; nothing is filled in.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from data.corpus import PretokenizeSettings
from data.filter_settings import FilterSettings
from data.shard import ShardSettings
from data.source import SourceSettings
from data.tokenizer import TokenizerSettings
from flows.errors import UnknownPresetError, UnknownSettingError, WrongValueError
from model.errors import WrongSettingError
from model.llama import LlamaSettings
from model.train_settings import TrainSettings
from tasks.acceptance_settings import Acceptance
from tasks.checkpoint_settings import CheckpointSettings
from tasks.code_benchmark_settings import CodeBenchmarkSettings
from tasks.errors import NotFoundError
from tasks.evaluate_settings import EvaluateSettings
from tasks.logins import has_login, without_login
from tasks.preregistration import ENDING, read_plan
from tasks.runtime import RuntimeSettings
from tasks.thresholds import Thresholds

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """All settings of a run, a section a stage."""

    source: SourceSettings
    filters: FilterSettings
    tokenizer: TokenizerSettings
    pretokenize: PretokenizeSettings
    shard: ShardSettings
    model: LlamaSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    code_benchmark: CodeBenchmarkSettings
    checkpoint: CheckpointSettings
    thresholds: Thresholds
    acceptance: Acceptance
    runtime: RuntimeSettings

    def __post_init__(self) -> None:
        """Refuse sections that contradict each other.

        Raises: WrongSettingError.
        """
        vocab_size, context = self.tokenizer.vocab_size, self.shard.context_length
        if self.model.vocab_size != vocab_size:
            expected = f"tokenizer.vocab_size ({vocab_size})"
            raise WrongSettingError("model.vocab_size", self.model.vocab_size, expected)
        if self.model.max_position_embeddings < context:
            found = self.model.max_position_embeddings
            expected = f"at least shard.context_length ({context})"
            raise WrongSettingError("model.max_position_embeddings", found, expected)

    def as_record(self) -> dict[str, Any]:
        """Return the settings as plain values, without what does not change the result."""
        record = dataclasses.asdict(self)
        del record["runtime"]
        return record


def preset_names() -> tuple[str, ...]:
    """List the presets that come with assay."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))


def load_settings(preset: str, overrides: Sequence[str] = ()) -> PipelineSettings:
    """Read a preset, by name or as a path to a TOML file or a registered plan, with overrides.

    Raises: UnknownPresetError, UnknownSettingError, WrongValueError, WrongSettingError.
    """
    if preset.endswith(ENDING):
        return _registered_settings(Path(preset), overrides)
    is_path = "/" in preset or preset.endswith(".toml")
    path = Path(preset) if is_path else PRESETS / f"{preset}.toml"
    if not path.is_file():
        if is_path:
            raise NotFoundError(f"preset file {path.name}", str(path.parent.absolute()))
        raise UnknownPresetError(preset, preset_names())
    try:
        values = tomllib.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        # Bad TOML, bad UTF-8 and an integer of too many digits are all ValueErrors.
        raise WrongValueError(str(path), "the text", f"no TOML ({error})", "TOML") from None
    _refuse_unknown(str(path), values)
    for override in overrides:
        _apply(values, override)
    return parse_settings(str(path) if is_path else preset, values)


def _registered_settings(path: Path, overrides: Sequence[str]) -> PipelineSettings:
    """Read the settings of a registered plan, which is carried out as it is.

    Raises: NotFoundError, WrongValueError.
    """
    if overrides:
        found, expected = ", ".join(overrides), "absent: a plan is carried out as it is"
        raise WrongValueError("--plan", "--set", found, expected)
    if not path.is_file():
        raise NotFoundError(f"plan {path.name}", str(path.parent.absolute()))
    plan = read_plan(path)
    values = {**plan["settings"], "runtime": plan["request"].get("runtime", {})}
    return parse_settings(str(path), values)


def planned_settings(plan: Mapping[str, Any], overrides: Sequence[str] = ()) -> PipelineSettings:
    """Read the settings of a run's plan, and apply overrides.

    Raises: UnknownSettingError, WrongValueError, WrongSettingError.
    """
    values = {**plan["settings"], "runtime": plan["request"].get("runtime", {})}
    for override in overrides:
        _apply(values, override)
    return parse_settings(f"the plan of {plan['run']}", values)


def parse_settings(where: str, values: Mapping[str, Any]) -> PipelineSettings:
    """Turn plain values into settings.

    Raises: WrongValueError, WrongSettingError.
    """
    _refuse_logins(where, values)
    try:
        return _ADAPTER.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = "missing" if first["type"] == "missing" else repr(first["input"])
        said = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        expected = "present" if first["type"] == "missing" else said
        raise WrongValueError(where, key, found, expected) from None


def _refuse_logins(where: str, values: Mapping[str, Any]) -> None:
    """Refuse a URL that logs in: settings are recorded, sent to Prefect and MLflow, and published.

    Raises: WrongValueError.
    """
    for section, fields in values.items():
        for name, value in fields.items() if isinstance(fields, Mapping) else ():
            if isinstance(value, str) and has_login(value):
                expected = "a URL without a login, which belongs into the environment"
                raise WrongValueError(where, f"{section}.{name}", without_login(value), expected)


def possible_here(settings: PipelineSettings) -> PipelineSettings:
    """Decide what settings mean that leave something to the machine."""
    from tasks.code_benchmark import as_possible

    return replace(settings, code_benchmark=as_possible(settings.code_benchmark))


def setting_keys() -> list[str]:
    """List every key of a preset."""
    return [f"{section}.{field}" for section, fields in _SECTIONS.items() for field in fields]


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `key=value`; the value is TOML, or a bare text where it is not."""
    key, equals, text = override.partition("=")
    section, _, field = key.strip().partition(".")
    if not equals:
        raise WrongValueError("--set", override, "without a value", "KEY=VALUE")
    if f"{section}.{field}" not in setting_keys():
        raise UnknownSettingError("--set", key, _closest(key))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    values.setdefault(section, {})[field] = value


def _refuse_unknown(where: str, values: Mapping[str, Any]) -> None:
    known = set(setting_keys())
    for key in _keys(values):
        if key not in known:
            raise UnknownSettingError(where, key, _closest(key))


def _keys(values: Mapping[str, Any]) -> Iterator[str]:
    for section, fields in values.items():
        if isinstance(fields, Mapping):
            yield from (f"{section}.{field}" for field in fields)
        else:
            yield section


def _closest(key: str) -> str:
    return next(iter(difflib.get_close_matches(key, setting_keys(), n=1, cutoff=0.75)), "")


_SECTIONS: dict[str, list[str]] = {
    section: [field.name for field in dataclasses.fields(settings_type)]
    for section, settings_type in get_type_hints(PipelineSettings).items()
}
_ADAPTER = TypeAdapter(PipelineSettings)
