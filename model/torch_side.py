"""Watch and change a torch model through hooks on its modules.

Values are changed in place, so that every later reader sees the change: also a residual stream that
another framework keeps in a variable of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.llama import Llama, LlamaSettings, TiedHead
from model.sides import Declaration, Rounding, Visit, declare
from model.taps import sites


@dataclass(frozen=True, slots=True)
class Point:
    """Where a site is in a module tree."""

    module: str
    is_input: bool = False
    """Whether the site is what the module is given, instead of what it returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSide:
    """A torch model whose sites are inputs or outputs of modules."""

    name: str
    settings: LlamaSettings
    module: nn.Module
    points: Mapping[str, Point]
    declarations: Mapping[str, Declaration]
    named_weights: Mapping[str, Tensor]
    observe: Callable[[nn.Module, Visit], AbstractContextManager[None]] | None = None
    """Shows the sites that no module gives or takes."""
    widen: Callable[[nn.Module], AbstractContextManager[None]] | None = None
    """Makes float64 what it says, where the model computes in less whatever it is given."""

    round_inputs: Rounding | None = None

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights under Hugging Face's names."""
        return self.named_weights

    def run(self, ids_BT: Tensor, visit: Visit) -> None:
        """Make one forward pass and show every declared site, in the order of execution."""
        self._run(ids_BT, visit, None)

    def run_in(self, dtype: torch.dtype, ids_BT: Tensor, visit: Visit) -> None:
        """Make one forward pass with weights and activations converted to a dtype.

        Weights are converted a module at a time, and kept as they are.
        """
        self._run(ids_BT, visit, dtype)

    def run_rounded(self, rounding: Rounding, ids_BT: Tensor, visit: Visit) -> None:
        """Make one forward pass with the inputs of all matrix products rounded."""
        self._run(ids_BT, visit, None, rounding)

    @torch.no_grad()
    def _run(
        self,
        ids_BT: Tensor,
        visit: Visit,
        dtype: torch.dtype | None,
        rounding: Rounding | None = None,
    ) -> None:
        with ExitStack() as stack:
            for site, point in self.points.items():
                stack.callback(_hook(self.module, site, point, visit).remove)
            if self.observe:
                stack.enter_context(self.observe(self.module, visit))
            if rounding:
                # After the hooks that show an input, so that what is shown is not rounded yet.
                stack.enter_context(_rounding_inputs(self.module, rounding))
            if dtype:
                stack.enter_context(_computing_in(self.module, dtype))
            if self.widen and dtype is torch.float64:
                stack.enter_context(self.widen(self.module))
            self.module(ids_BT.to(next(self.module.parameters()).device))


def llama_side(name: str, model: Llama) -> TorchSide:
    """Make a side of a model of ours."""
    num_layers = model.settings.num_layers
    return TorchSide(
        name=name,
        settings=model.settings,
        module=model,
        points={site: Point(path) for site, path in sites(num_layers).items()},
        declarations=declare(num_layers, model.model.embed_tokens.weight.dtype),
        named_weights={key: p.detach() for key, p in model.named_parameters()},
    )


def show(site: str, value: Tensor, visit: Visit) -> None:
    """Show a value as (B, T, C), and write what is returned in its place."""
    view = value.transpose(1, 2) if value.ndim == 4 else value
    replacement = visit(site, view.flatten(2))
    if replacement is not None:
        view.copy_(replacement.reshape(view.shape))


def _hook(root: nn.Module, site: str, point: Point, visit: Visit) -> Any:  # RemovableHandle
    module = root.get_submodule(point.module)

    def see_input(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        show(site, given[0], visit)

    def see_output(_module: nn.Module, _given: object, output: Tensor) -> None:
        show(site, output, visit)

    if point.is_input:
        return module.register_forward_pre_hook(see_input)
    return module.register_forward_hook(see_output)


@contextmanager
def _rounding_inputs(root: nn.Module, rounding: Rounding) -> Iterator[None]:
    def rounded(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (rounding(given[0]), *given[1:])

    with ExitStack() as stack:
        for module in root.modules():
            if isinstance(module, nn.Linear | TiedHead):
                stack.callback(module.register_forward_pre_hook(rounded).remove)
        yield


@contextmanager
def _computing_in(root: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    with ExitStack() as stack:
        for module in root.modules():
            if next(module.children(), None) is None:
                kept: dict[nn.Parameter, Tensor] = {}
                before, after = partial(_convert, dtype, kept), partial(_restore, kept)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                # First of all hooks, so that what is shown has the converted dtype already.
                hook = module.register_forward_hook(after, prepend=True, always_call=True)
                stack.callback(hook.remove)
        yield


def _convert(
    dtype: torch.dtype,
    kept: dict[nn.Parameter, Tensor],
    module: nn.Module,
    given: tuple[Any, ...],
    named: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    for parameter in module.parameters():
        kept[parameter] = parameter.data
        parameter.data = parameter.data.to(dtype)
    cast = partial(_cast, dtype)
    return tuple(map(cast, given)), {key: cast(value) for key, value in named.items()}


def _cast(dtype: torch.dtype, value: Any) -> Any:  # whatever a module is given
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _restore(kept: dict[nn.Parameter, Tensor], *_: object) -> None:
    for parameter, data in kept.items():
        parameter.data = data
    kept.clear()
