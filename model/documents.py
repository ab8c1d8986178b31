"""Several documents in one row: who may see whom, and where each of them begins.

An end of text belongs to the document that it ends, as everywhere in assay.

Shapes: B rows, T positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Separation(NamedTuple):
    """What keeps the documents of a row apart."""

    positions_BT: Tensor
    """Of every token in its document, from zero."""
    visible_B1TT: Tensor
    """Whether a position (second to last) may attend to another (last); one for all heads."""


def documents_of(ids_BT: Tensor, end_of_text_id: int) -> Tensor:
    """Number the documents of every row from zero.

    Shapes: (B, T) -> (B, T).

    >>> documents_of(torch.tensor([[5, 0, 7, 8, 0, 9]]), 0).tolist()
    [[0, 0, 1, 1, 1, 2]]
    """
    is_end_BT = (ids_BT == end_of_text_id).long()
    # The ends before a token, its own not counted.
    return is_end_BT.cumsum(-1) - is_end_BT


def separate(documents_BT: Tensor) -> Separation:
    """Let every token see the tokens of its document up to itself, at positions that restart.

    Rotary attention knows distances alone, so in exact arithmetic positions need not restart.
    They do because angles are rounded, the more the larger a position is: so a document in a row
    is computed as it is alone, as transformers computes packed rows too.

    Shapes: (B, T) -> (B, T) and (B, 1, T, T).
    """
    index_T = torch.arange(documents_BT.shape[-1], device=documents_BT.device)
    is_first_BT = documents_BT.diff(dim=-1, prepend=documents_BT[:, :1] - 1) != 0
    start_BT = (index_T * is_first_BT).cummax(-1).values
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    causal_TT = index_T[:, None] >= index_T
    return Separation(index_T - start_BT, (same_BTT & causal_TT)[:, None])
