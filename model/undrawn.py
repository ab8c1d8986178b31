"""A Llama whose weights somebody else is about to set."""

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from model.llama import Llama, LlamaSettings

DRAWS = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_)


def undrawn(settings: LlamaSettings) -> Llama:
    """Build a model whose matrices are whatever was in memory: every one has to be replaced.

    Drawing them as torch does takes longer than reading a file, and nobody would read what it drew.
    """
    with _Undrawn():
        return Llama(settings)


class _Undrawn(TorchFunctionMode):
    """Leaves new parameters as their memory is; torch's meta device takes a second to import."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,  # as torch has it
    ) -> Any:
        """Skip the draws, and do all else."""
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
