"""Rows in flight: what they drew last, where they stand, and the step that moves them all on.

On a GPU the step is captured once as a CUDA graph and replayed: it reads and writes tensors that
stay where they are, and a block of tokens is drawn before anyone waits for the device.

Shapes: B rows, C tokens of a block, T positions.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from model.decoding import CachedLlama
from model.sampling import Sampling, choose

_READ_ROWS = 16
"""Rows read in together, at most: what bounds the memory that a long prompt takes."""
_WARM_UP_STEPS = 3


class Slots:
    """The rows of a cached model; each holds one sequence, or nothing that matters."""

    def __init__(
        self,
        cached: CachedLlama,
        sampling: Sampling,
        *,
        block_tokens: int,
        compiled: bool = False,
        captured: bool = True,
    ) -> None:
        """Compile the step where asked to; on a GPU, capture it unless asked not to."""
        self.cached = cached
        self.sampling = sampling
        self.block_tokens = block_tokens
        self.num_rows = cached.num_rows
        device, rows = cached.device, (cached.num_rows,)
        self._ids_B = torch.zeros(rows, dtype=torch.long, device=device)
        self._positions_B = torch.zeros_like(self._ids_B)
        self._is_sound_B = torch.ones(rows, dtype=torch.bool, device=device)
        block = (block_tokens, *rows)
        self._uniforms_CB = torch.zeros(block, dtype=torch.float64, device=device)
        self._drawn_CB = torch.zeros(block, dtype=torch.long, device=device)
        self._place_1 = torch.zeros(1, dtype=torch.long, device=device)
        captured = captured and device.type == "cuda"
        self._is_static = compiled or captured
        """Whether a step looks at all positions that there is room for, so that it stays one."""
        self._step: Callable[[int], None] = self._advance
        if compiled:
            # On a GPU it has single rows multiplied by kernels that do more than one thing.
            tuning = {"coordinate_descent_tuning": device.type == "cuda"}
            self._step = torch.compile(
                self._advance, fullgraph=True, dynamic=False, options={**tuning}
            )
        self._graph = self._capture() if captured else None

    def place(self, windows: Mapping[int, Sequence[int]]) -> None:
        """Begin rows anew with sequences of one token at least, the last of them not yet kept."""
        rows = sorted(windows, key=lambda row: len(windows[row]))
        for first in range(0, len(rows), _READ_ROWS):
            self._place(rows[first : first + _READ_ROWS], windows)

    @torch.no_grad()
    def _place(self, rows: Sequence[int], windows: Mapping[int, Sequence[int]]) -> None:
        device = self.cached.device
        ids_RT = torch.zeros(len(rows), max(len(windows[row]) for row in rows), dtype=torch.long)
        for ids_T, row in zip(ids_RT, rows, strict=True):
            ids_T[: len(windows[row])] = torch.tensor(windows[row])
        lengths_R = torch.tensor([len(windows[row]) for row in rows])
        last_R = ids_RT.gather(1, lengths_R[:, None] - 1)[:, 0]
        rows_R = torch.tensor(rows, device=device)
        self.cached.forget(rows_R)
        if ids_RT.shape[1] > 1:
            self.cached.read(rows_R, ids_RT[:, :-1].to(device))
        self._ids_B[rows_R] = last_R.to(device)
        self._positions_B[rows_R] = (lengths_R - 1).to(device)
        self._is_sound_B[rows_R] = True

    @torch.no_grad()
    def park(self, rows: Sequence[int]) -> None:
        """Send rows that nobody reads back to the first position, so that they stay in bounds."""
        self._positions_B[torch.tensor(rows, dtype=torch.long, device=self.cached.device)] = 0

    @torch.no_grad()
    def draw(self, uniforms_CB: Tensor, num_seen: int) -> tuple[Tensor, Tensor]:
        """Draw as many tokens for every row as uniform numbers are given.

        `num_seen` is above every position that the first of these steps reads.

        Shapes: (C, B) -> (C, B) and (B,), whether all logits of a row were finite.
        """
        num_tokens = len(uniforms_CB)
        self._uniforms_CB[:num_tokens] = uniforms_CB.to(self.cached.device)
        self._place_1.zero_()
        for number in range(num_tokens):
            if self._graph:
                self._graph.replay()
            else:
                self._step(self.cached.num_positions if self._is_static else num_seen + number)
        drawn_CB, is_sound_B = self._drawn_CB[:num_tokens], self._is_sound_B
        return drawn_CB.to("cpu", copy=True), is_sound_B.to("cpu", copy=True)

    @torch.no_grad()
    def _advance(self, num_seen: int) -> None:
        logits_BV = self.cached.step(self._ids_B, self._positions_B, num_seen)
        uniforms_B = self._uniforms_CB.index_select(0, self._place_1)[0]
        token_B = choose(logits_BV, uniforms_B, self.sampling)
        # A sum is finite where all it adds is, and costs one pass.
        self._is_sound_B &= logits_BV.sum(-1, dtype=torch.float32).isfinite()
        self._drawn_CB.index_copy_(0, self._place_1, token_B[None])
        self._ids_B.copy_(token_B)
        self._positions_B += 1
        self._place_1 += 1

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture one step; what the warm-up leaves in the rows is overwritten when they begin."""
        num_seen, graph = self.cached.num_positions, torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self.cached.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.cached.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self._rewind()
                self._step(num_seen)
            self._rewind()
        torch.cuda.current_stream(self.cached.device).wait_stream(stream)
        with torch.cuda.device(self.cached.device), torch.cuda.graph(graph):
            self._step(num_seen)
        return graph

    def _rewind(self) -> None:
        self._positions_B.zero_()
        self._place_1.zero_()
