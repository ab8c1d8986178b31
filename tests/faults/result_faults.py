"""Failures of bisection, packaging, evaluation and claims: F29, F37b and F48 to F60."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.checkpoint import checkpoint_task
from tasks.checkpoint_settings import CheckpointSettings
from tasks.evaluate import evaluate_task
from tasks.import_model import import_model
from tasks.model_bisection import bisect_models
from tasks.scored_model import scored
from tests.faults.lab import AT_THE_END, Lab
from tests.faults.loop_faults import copied, fault
from tests.faults.model_faults import AT_RESUME
from tests.tasks.tampering import reseal, reseal_run, set_at
from tests.tasks.tiny import at_home, begin, evaluated, tiny_settings

IMPORTING, SEALING, COMPARING = "in import", "in checkpoint, before sealing", "before comparing"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
LABELS = CheckpointSettings(
    name="elsewhere",
    licence="MIT",
    data_source="not stated",
    data_licence="not stated",
    safetensors_dtype="float32",
    apr_types=(),
    gguf_types=(),
)
PROBLEM = {
    "task_id": "tiny/2",
    "prompt": 'def times(x):\n    """Double a number."""\n',
    "entry_point": "times",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}
QWEN_BIASED = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
Tensors = dict[str, Tensor]


def bundle(lab: Lab) -> Path:
    """Copy what another program would find of the sealed model: a Hugging Face directory."""
    sealed = lab.finished.store.open(lab.finished.refs.checkpoint).directory
    directory = lab.directory.parent / "bundle"
    directory.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        shutil.copyfile(sealed / name, directory / name)
    return directory


def with_tensors(directory: Path, edit: Callable[[Tensors], object]) -> None:
    """Change the weights of a directory."""
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def with_config(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what a directory says of its architecture."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def take_in(lab: Lab, directory: Path) -> None:
    """Do as `assay import` does."""
    with lab.at(IMPORTING), at_home(lab.directory.parent / "home"):
        import_model(directory, LABELS, None)


def qwen(lab: Lab) -> Path:
    """Make a Qwen2 of what another program would find."""
    directory = bundle(lab)
    with_tensors(directory, add_biases)

    def rename(config: dict[str, Any]) -> None:
        for key in ("attention_bias", "mlp_bias", "pretraining_tp"):
            del config[key]
        config.update(model_type="qwen2", architectures=["Qwen2ForCausalLM"])

    with_config(directory, rename)
    return directory


def add_biases(tensors: Tensors) -> None:
    """Give queries, keys and values the biases that a Qwen2 has."""
    generator = torch.Generator().manual_seed(1)
    names = [name for name in tensors if name.endswith(QWEN_BIASED)]
    for name in names:
        bias = torch.randn(len(tensors[name]), generator=generator) / 10
        tensors[name.replace("weight", "bias")] = bias


def score(lab: Lab, model: Path) -> None:
    """Evaluate a model from elsewhere on the finished run's rows, and have it write a little."""
    finished = copied(lab, lab.directory.parent / "home")
    settings = finished.settings
    code = replace(settings.code_benchmark, syntax_prompts=1, syntax_tokens=1)
    with at_home(finished.home):
        evaluate_task.fn(
            begin(settings, "elsewhere"),
            scored(str(model)),
            finished.refs.shards,
            settings.evaluate,
            code,
            replace(settings.thresholds, max_loss_to_unigram=9.0),
            settings.runtime,
        )


def seal(lab: Lab) -> None:
    """Seal the finished training under another name."""
    finished = copied(lab, lab.directory.parent / "home")
    settings = finished.settings
    with lab.at(SEALING), at_home(finished.home):
        named = replace(settings.checkpoint, name="other")
        checkpoint_task.fn(
            begin(settings, "other"), finished.refs.evaluation, named, settings.thresholds
        )


def answer(lab: Lab) -> None:
    """Have the finished model answer a problem."""
    finished = copied(lab, lab.directory.parent / "home")
    path = finished.home / "problems.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n")
    changes = {"problems": f'"{path}"', "max_tokens": 4, "samples": 1, "pass_at": "[1]"}
    settings = tiny_settings(
        finished.home, [f"code_benchmark.{key}={value}" for key, value in changes.items()]
    )
    with at_home(finished.home):
        evaluated(begin(settings, "code"), finished.refs.training, finished.refs.shards, settings)


@fault(
    "F29",
    "a model with other rows than its tokenizer has ids",
    "an equality refused the models that have reserved rows: 151,665 and 151,936",
    "ModelFormatError",
    IMPORTING,
)
def _(lab: Lab) -> None:
    # More rows are in order, fewer are not.
    directory = bundle(lab)
    rows = lab.either(200, 320)

    def resize(tensors: Tensors) -> None:
        for name in (EMBEDDING, HEAD):
            tensors[name] = tensors[name].repeat(2, 1)[:rows].contiguous()

    with_tensors(directory, resize)
    with_config(directory, lambda config: config.update(vocab_size=rows))
    take_in(lab, directory)


@fault(
    "F37b",
    "the same in a model that is only evaluated",
    "-",
    "evaluate.forward",
    AT_THE_END,
)
def _(lab: Lab) -> None:
    lab.drop_biases()
    score(lab, qwen(lab))


@fault(
    "F37c",
    "the same where tokens are drawn one by one, and nowhere else",
    "-",
    "evaluate.decoding",
    AT_THE_END,
)
def _(lab: Lab) -> None:
    def without_bias(layer: Any) -> Any:
        return replace(real(layer), qkv_bias=None)

    real = lab.replace("model.decoding._fuse", without_bias)
    score(lab, qwen(lab))


@fault(
    "F48",
    "the output matrix is read in the other layout",
    "cosine -0.005 between CPU and GPU, whose first choices were 334 and 8127",
    "train.resume",
    AT_RESUME,
)
def _(lab: Lab) -> None:
    def transposed(path: Any) -> Any:
        found, tensors = real(path)
        head = tensors[HEAD]
        other = head.reshape(head.shape[::-1]).T.contiguous()
        return found, {**tensors, HEAD: other}

    real = lab.replace("tasks.train_worker.read_model", transposed)
    lab.resume()


@fault(
    "F49",
    "a matrix comes with its columns for rows",
    "more than a hundred times",
    "WrongTensorsError",
    IMPORTING,
)
def _(lab: Lab) -> None:
    directory = bundle(lab)
    if lab.planted:
        with_tensors(
            directory, lambda tensors: tensors.update({HEAD: tensors[HEAD].T.contiguous()})
        )
    take_in(lab, directory)


@fault(
    "F49b",
    "the same where rows and columns are as many, so that the shape does not tell",
    "-",
    "UnfaithfulFileError",
    SEALING,
)
def _(lab: Lab) -> None:
    def transposed(*arguments: Any, **named: Any) -> Any:
        found, tensors = real(*arguments, **named)
        name = "model.layers.0.self_attn.o_proj.weight"
        return found, {**tensors, name: tensors[name].T.contiguous()}

    real = lab.replace("tasks.bundle.read_model", transposed)
    seal(lab)


@fault(
    "F50",
    "two sides are compared that show different tokens",
    "a ratio of 18.23 between all tokens and the last one; three weeks, and no fault",
    "DifferentProgramsError",
    COMPARING,
)
def _(lab: Lab) -> None:
    def of_the_last(text: str, device: str, precision: str | None) -> Any:
        side = real(text, device, precision)
        for name, each in side.declarations.items():
            side.declarations[name] = replace(each, tokens="the last token")
        return side

    real = lab.replace("tasks.model_bisection.open_candidate", of_the_last)
    directory = str(bundle(lab))
    with lab.at(COMPARING), at_home(lab.directory.parent / "home"):
        bisect_models("compare", directory, directory, None, "1,2,3,4", "cpu")


@fault(
    "F51",
    "a file does not say how wide the model is",
    "five repairs of its readers, until the writer was found",
    "ModelFormatError",
    IMPORTING,
)
def _(lab: Lab) -> None:
    directory = bundle(lab)
    if lab.planted:
        with_config(directory, lambda config: config.pop("hidden_size"))
    take_in(lab, directory)


@fault(
    "F51b",
    "a model comes without its tokenizer",
    "-",
    "NotFoundError",
    IMPORTING,
)
def _(lab: Lab) -> None:
    directory = bundle(lab)
    if lab.planted:
        (directory / "tokenizer.json").unlink()
    take_in(lab, directory)


@fault(
    "F51c",
    "fewer tensors are written than the architecture has",
    "291 claimed, 219 written: 72 biases missing",
    "WrongTensorsError",
    IMPORTING,
)
def _(lab: Lab) -> None:
    directory = bundle(lab)
    if lab.planted:
        with_tensors(directory, lambda tensors: tensors.pop("model.norm.weight"))
    take_in(lab, directory)


@fault(
    "F52",
    "every structural check passes, and the weights are garbage",
    '339 tensors "PASS", and the model writes "xxx9,x,x"',
    "checkpoint.drift",
    AT_THE_END,
)
def _(lab: Lab) -> None:
    def shuffled(*arguments: Any, **named: Any) -> Any:
        found, tensors = real(*arguments, **named)
        order = torch.randperm(len(tensors[HEAD]), generator=torch.Generator().manual_seed(1))
        return found, {**tensors, HEAD: tensors[HEAD][order]}

    real = lab.replace("tasks.checkpoint.read_model", shuffled)
    seal(lab)


@fault(
    "F53",
    "a figure is that of another model",
    "87.20 % on HumanEval, which was the teacher's; its own was near zero",
    "assay verify",
    "evaluate.metadata.json: val_loss is ..., record says ...",
)
def _(lab: Lab) -> None:
    home = lab.directory.parent / "home"
    run = copied(lab, home).run
    with at_home(home):
        if lab.planted:
            reseal(
                run.directory / "evaluate.metadata.json",
                set_at("measurements", "val_loss", to=1.25),
            )
            reseal_run(run)
        lab.verify(run)


@fault(
    "F54",
    "the harness does not put the question as it should",
    "34 % where the same answers are worth 86.59 %",
    "evaluate.canonical",
    AT_THE_END,
    needs_isolation=True,
)
def _(lab: Lab) -> None:
    def without_prompt(given: Any, problems: Any) -> Any:
        return replace(real(given, problems), code=given.completion)

    real = lab.replace("tasks.code_benchmark._as_answer", without_prompt)
    answer(lab)


@fault(
    "F55",
    "what could not be answered counts as solved",
    "164 of 164, from a model that did not work",
    "evaluate.nonsense",
    AT_THE_END,
    needs_isolation=True,
)
def _(lab: Lab) -> None:
    def canonical(given: Any, problems: Any) -> Any:
        as_asked = real(given, problems)
        problem = next(each for each in problems if each.task_id == given.task)
        return replace(as_asked, code=problem.prompt + problem.canonical_solution)

    real = lab.replace("tasks.code_benchmark._as_answer", canonical)
    answer(lab)


@fault(
    "F55b",
    "the model's scores are no numbers",
    "exit code 0",
    "evaluate.inference",
    AT_THE_END,
    needs_isolation=True,
)
def _(lab: Lab) -> None:
    def broken(model: Any, *arguments: Any, **named: Any) -> Any:
        if lab.planted:
            with torch.no_grad():
                model.model.norm.weight.fill_(math.nan)
        return real(model, *arguments, **named)

    real = lab.replace("tasks.code_benchmark.complete_all", broken)
    answer(lab)


@fault(
    "F56",
    "a training that copies its weights",
    "an epoch of 45 s; the output was the input and 192 bytes",
    "train.moves",
    "step 1",
)
def _(lab: Lab) -> None:
    def copying(optimizer: Any) -> None:
        parameters = [
            p for part in optimizer.parts for group in part.param_groups for p in group["params"]
        ]
        before = [parameter.detach().clone() for parameter in parameters]
        real(optimizer)
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)

    real = lab.replace("model.optimizer.TrainOptimizer.step", copying)
    lab.train()


@fault(
    "F58",
    "a check is cited that does not exist",
    "seven of eight names in one contract",
    "assay verify",
    "evaluate.metadata.json: gate evaluate.forward is pass now",
)
def _(lab: Lab) -> None:
    home = lab.directory.parent / "home"
    run = copied(lab, home).run
    with at_home(home):
        if lab.planted:
            record = run.directory / "evaluate.metadata.json"
            reseal(record, set_at("gates", 0, "id", to="evaluate.golden-output"))
            reseal_run(run)
        lab.verify(run)


@fault(
    "F60",
    "the bound is moved once the result is known",
    "2.2 nats became 4.7, with 4.6227 in hand",
    "assay verify",
    "plan.json: settings_sha... is not the digest of the planned settings",
)
def _(lab: Lab) -> None:
    home = lab.directory.parent / "home"
    run = copied(lab, home).run
    with at_home(home):
        if lab.planted:
            bound = set_at("settings", "acceptance", "max_val_loss", to=4.7)
            reseal(run.directory / "plan.json", bound)
            reseal_run(run)
        lab.verify(run)
