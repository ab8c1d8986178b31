"""Failures of initialisation, of forward and backward passes, and of resuming: F35 to F47."""

import math
from dataclasses import replace
from typing import Any

import torch

from model.llama import initialise, planned_std
from tests.faults.lab import AT_START, Lab
from tests.faults.loop_faults import fault

AT_RESUME = "before step 17"


@fault(
    "F35",
    "weights are accepted and not loaded",
    "8.60 nats where 4.62 had been recorded",
    "train.resume",
    AT_RESUME,
)
def _(lab: Lab) -> None:
    lab.replace("model.training_state._load_weights", lambda model, _weights: initialise(model, 1))
    lab.resume()


@fault(
    "F36",
    "some tensors are dropped at load",
    "0.0019 nats instead of 1.20, 72 biases missing",
    "WrongTensorsError",
    AT_RESUME,
)
def _(lab: Lab) -> None:
    def fewer(path: Any) -> Any:
        found, tensors = real(path)
        return found, {name: t for name, t in tensors.items() if "v_proj" not in name}

    real = lab.replace("tasks.train_worker.read_model", fewer)
    lab.resume()


@fault(
    "F37",
    "the forward pass leaves out the biases",
    "18.55 nats instead of 17.22",
    "train.gradient",
    AT_START,
)
def _(lab: Lab) -> None:
    lab.drop_biases()
    job = lab.job()
    lab.train(replace(job, model=replace(job.model, attention_bias=True)))


@fault(
    "F38",
    "RMSNorm has a constant of its own for epsilon",
    "2.25 per cent away, cosine 0.88",
    "train.forward",
    AT_START,
)
def _(lab: Lab) -> None:
    def of_its_own(norm: Any, x: Any) -> Any:
        norm.eps = 1e-6
        return real(norm, x)

    real = lab.replace("model.llama.RMSNorm.forward", of_its_own)
    lab.train()


@fault(
    "F39",
    "RoPE turns with the base of another model",
    "wrong frequencies after a change of models",
    "train.forward",
    AT_START,
)
def _(lab: Lab) -> None:
    def of_another(rope: Any, *given: Any) -> Any:
        rope.theta = 1e6
        return real(rope, *given)

    real = lab.replace("model.llama.Rope.forward", of_another)
    lab.train()


@fault(
    "F40",
    "RoPE pairs neighbouring channels",
    "13 to 14 nats, above a uniform guess, for ever",
    "train.forward",
    AT_START,
)
def _(lab: Lab) -> None:
    def neighbours(rope: Any, x: Any, *given: Any) -> Any:
        size = x.shape[-1]
        halves = torch.cat((torch.arange(0, size, 2), torch.arange(1, size, 2)))
        return real(rope, x[..., halves], *given)[..., halves.argsort()] if size > 2 else x

    real = lab.replace("model.llama.Rope.forward", neighbours)
    lab.train()


@fault(
    "F41",
    "training goes on from far above what the weights scored",
    "6.5 to 7.4 nats from a model of 1.5 to 3.0",
    "train.resume",
    AT_RESUME,
)
def _(lab: Lab) -> None:
    def swapped(path: Any) -> Any:
        found, tensors = real(path)
        first, second = (f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1))
        return found, {**tensors, first: tensors[second], second: tensors[first]}

    real = lab.replace("tasks.train_worker.read_model", swapped)
    lab.resume()


@fault(
    "F42",
    "weights are read as another format",
    "wrong weights after a tag for bfloat16",
    "train.resume",
    AT_RESUME,
)
def _(lab: Lab) -> None:
    def rounded(path: Any) -> Any:
        found, tensors = real(path)
        return found, {name: t.to(torch.bfloat16).float() for name, t in tensors.items()}

    real = lab.replace("tasks.train_worker.read_model", rounded)
    lab.resume()


@fault(
    "F43",
    "there is no RoPE",
    "a floor at 6.66 nats",
    "train.forward",
    AT_START,
)
def _(lab: Lab) -> None:
    lab.replace("model.llama.Rope.forward", lambda _rope, x, *_: x)
    lab.train()


@fault(
    "F43b",
    "RoPE has no backward pass",
    "-",
    "train.gradient",
    AT_START,
)
def _(lab: Lab) -> None:
    def one_way(x: Any, *given: Any) -> Any:
        return x + (real(x, *given) - x).detach()

    real = lab.replace("model.fast_llama._rotated", one_way)
    lab.train()


@fault(
    "F44",
    "there is no causal mask",
    "perplexity 729 where 50 was due",
    "train.forward",
    AT_START,
)
def _(lab: Lab) -> None:
    def everywhere(*given: Any, is_causal: bool, **named: Any) -> Any:
        return real(*given, is_causal=False, **named)

    real = lab.replace("torch.nn.functional.scaled_dot_product_attention", everywhere)
    lab.train()


@fault(
    "F45",
    "weights begin as waves",
    "perplexity 793 where 12 was due",
    "train.shape",
    AT_START,
)
def _(lab: Lab) -> None:
    def waves(model: Any, seed: int) -> Any:
        generator = real(model, seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2:
                    wave = torch.sin(torch.arange(weight.numel()).double()).view_as(weight)
                    weight.copy_(wave * math.sqrt(2) * planned_std(name, model.settings))
        return generator

    real = lab.replace("model.training_state.initialise", waves)
    lab.train()


@fault(
    "F46",
    "gradients of earlier steps are not dropped",
    "NaN and crashes",
    "train.gradient",
    AT_START,
)
def _(lab: Lab) -> None:
    lab.replace("model.optimizer.TrainOptimizer.zero_grad", lambda _optimizer: None)
    lab.train()


@fault(
    "F46b",
    "micro-batches are averaged once too often",
    "-",
    "train.gradient",
    AT_START,
)
def _(lab: Lab) -> None:
    def again(*given: Any) -> Any:
        return real(*given) / 2

    real = lab.replace("model.fast_llama.FastLlama.forward", again)
    lab.train()


@fault(
    "F46c",
    "an activation overflows in the backward pass",
    "-",
    "NonFiniteError",
    "step 5",
)
def _(lab: Lab) -> None:
    def overflowing(state: Any, *given: Any, **named: Any) -> Any:
        loss = real(state, *given, **named)
        if state.step == 4:
            next(state.model.parameters()).grad.mul_(math.inf)
        return loss

    real = lab.replace("model.train.accumulate", overflowing)
    lab.train()


@fault(
    "F47",
    "the optimizer's state is not restored",
    "validation perplexity 239 after a resume",
    "ModelFormatError",
    AT_RESUME,
)
def _(lab: Lab) -> None:
    lab.replace("model.optimizer.TrainOptimizer.load_tensors", lambda *_: None)
    lab.resume()


@fault(
    "F47b",
    "the place in the data is not restored",
    "-",
    "ArtefactDamagedError",
    AT_RESUME,
)
def _(lab: Lab) -> None:
    def from_the_beginning(*given: Any, **named: Any) -> Any:
        state = real(*given, **named)
        state.cursor_rows = 0
        return state

    real = lab.replace("tasks.train_worker.load_training_state", from_the_beginning)
    lab.resume()
