"""How far tensors are apart, all of them together."""

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


@torch.no_grad()
def distance(ones: list[Tensor], others: list[Tensor], *, compiled: bool) -> Tensor:
    """Return the norm of all differences; the first tensors may be used up for it.

    `compiled` says whether a GPU may be given a kernel made for this.

    Shapes: -> ().
    """
    if compiled and ones[0].is_cuda and ones[0].dtype == torch.float32:
        # Where nothing can be compiled, the package that the kernel is written in may be missing.
        from model.sum_kernels import distance_in_one_pass

        return distance_in_one_pass(ones, others)
    torch._foreach_sub_(ones, others)
    return get_total_norm(ones)
