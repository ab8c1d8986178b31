"""AdamW, alone or with Muon for the hidden matrices.

Weight decay acts on matrices that every token uses. Embedding rows are exempt: a row without
occurrences in a batch has no gradient, and decay alone would shrink rare tokens towards zero. Where
the embedding is the head too, every token uses every row. Gains are exempt: decay would pull them
to zero, away from the identity. Biases are exempt as usual.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model.errors import WrongTensorsError
from model.muon import Muon
from model.ranks import like
from model.train_settings import TrainSettings


class TrainOptimizer:
    """One or two torch optimizers that together own every parameter exactly once."""

    def __init__(self, model: nn.Module, parts: tuple[torch.optim.Optimizer, ...]) -> None:
        self.parts = parts
        self._parameters = dict(model.named_parameters())

    def step(self) -> None:
        """Update every parameter from its gradient."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Drop every gradient."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def num_updates(self) -> int:
        """Read the number of updates from AdamW's state, where every parameter must agree."""
        fewest, most = self.update_counts().tolist()
        assert fewest == most
        return int(fewest)

    def update_counts(self) -> Tensor:
        """Return the fewest and the most updates of a parameter, from AdamW's state.

        Shapes: -> (2,).
        """
        states = [each for part in self.parts for each in part.state.values()]
        counts = [each["step"] for each in states if "step" in each]
        return torch.stack(torch.stack(counts).aminmax()) if counts else torch.zeros(2)

    def tensors(self) -> dict[str, Tensor]:
        """Name every state tensor after its parameter and its role."""
        return {
            f"{name}.{role}": value
            for name, parameter in self._parameters.items()
            for part in self.parts
            for role, value in sorted(part.state.get(parameter, {}).items())
        }

    def load_tensors(self, tensors: dict[str, Tensor], where: str) -> None:
        """Replace the whole state by copies of these tensors.

        Raises: WrongTensorsError if they are not exactly what this optimizer would save.
        """
        expected = self._expected_forms()
        missing = tuple(sorted(expected.keys() - tensors.keys()))
        unexpected = tuple(sorted(tensors.keys() - expected.keys()))
        shared = sorted(expected.keys() & tensors.keys())
        misshapen = tuple(name for name in shared if _form(tensors[name]) != expected[name])
        if missing or unexpected or misshapen:
            raise WrongTensorsError(where, missing, unexpected, misshapen)
        for part, parameter, name in self._owned():
            part.state[parameter] = {
                role: like(tensors[f"{name}.{role}"], parameter) for role in _roles(part)
            }

    def _expected_forms(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {
            f"{name}.{role}": (torch.Size(), torch.float32) if role == "step" else _form(parameter)
            for part, parameter, name in self._owned()
            for role in _roles(part)
        }

    def _owned(self) -> Iterator[tuple[torch.optim.Optimizer, Tensor, str]]:
        names = {parameter: name for name, parameter in self._parameters.items()}
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield part, parameter, names[parameter]


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _roles(part: torch.optim.Optimizer) -> tuple[str, ...]:
    if isinstance(part, Muon):
        return ("momentum_buffer",)
    return ("exp_avg", "exp_avg_sq", "step")


def new_optimizer(model: nn.Module, settings: TrainSettings) -> TrainOptimizer:
    """Give every parameter to the rule that the settings ask for.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2 (AdamW); Jordan et al. 2024,
    Muon, with the update scale of Liu et al. 2025, arXiv:2502.16982, section 2.2, by which both
    rules move a weight equally far at one learning rate.
    """
    hidden: list[Tensor] = []
    decayed: list[Tensor] = []
    exempt: list[Tensor] = []
    named = dict(model.named_parameters())
    tied = "lm_head.weight" not in named
    for name, parameter in named.items():
        is_embedding = "embed_tokens" in name
        if parameter.ndim != 2 or (is_embedding and not tied):
            exempt.append(parameter)
        elif settings.optimizer == "muon" and not is_embedding and "lm_head" not in name:
            hidden.append(parameter)
        else:
            decayed.append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": exempt, "weight_decay": 0.0},
        ],
        lr=settings.peak_lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.adam_eps,
        fused=True,
    )
    if not hidden:
        return TrainOptimizer(model, (adamw,))
    muon = Muon(
        hidden,
        lr=settings.peak_lr,
        weight_decay=settings.weight_decay,
        momentum=settings.muon_momentum,
    )
    return TrainOptimizer(model, (muon, adamw))


def set_learning_rate(optimizer: TrainOptimizer, learning_rate: float) -> None:
    """Set the rate of every group."""
    for part in optimizer.parts:
        for group in part.param_groups:
            group["lr"] = learning_rate


def read_learning_rate(optimizer: TrainOptimizer) -> float:
    """Read the rate back from the groups, which must agree."""
    rates = {float(group["lr"]) for part in optimizer.parts for group in part.param_groups}
    assert len(rates) == 1, rates
    return rates.pop()
