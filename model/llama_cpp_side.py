"""Watch and change a GGUF file inside llama.cpp, node by node of its graph, through `cb_eval`.

Shapes: B rows, T positions, C channels.
"""

import ctypes
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import torch
from torch import Tensor

from model.architecture import LLAMA, family
from model.errors import UnsupportedFeatureError
from model.gguf_file import open_gguf
from model.gguf_layout import TensorType
from model.gguf_model import read_gguf_model
from model.gguf_names import interleave, split_halves
from model.llama import LlamaSettings
from model.llama_cpp_nodes import Names, read, write
from model.sides import Declaration, Rounding, Visit, declare, kind_of, require_equal

INPUT_BLOCKS = {TensorType.Q8_0: 32, TensorType.Q4_K: 256, TensorType.Q6_K: 256}
"""Values that share a step when an input is rounded for a matrix of this type."""
FLOAT32 = 0


class LlamaCppSide:
    """A Llama or Qwen2 in a GGUF file, in llama.cpp on one thread of the CPU, cached in float32."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.settings, self._weights = read_gguf_model(path)
        self.round_inputs = input_rounding(path)
        self.declarations = _declarations(self.settings)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights under Hugging Face's names, dequantised."""
        return self._weights

    def run(self, ids_BT: Tensor, visit: Visit) -> None:
        """Make one forward pass and show every declared site, in the order of execution."""
        require_equal("rows in llama.cpp", 1, len(ids_BT))
        watch = _Watch(self.settings, visit)
        with open_context(self.path, ids_BT.shape[1], watch.callback) as context:
            try:
                decode(context, [int(token) for token in ids_BT[0]])
            finally:
                if watch.error:
                    raise watch.error


class _Watch:
    """What llama.cpp calls before and after every node."""

    def __init__(self, settings: LlamaSettings, visit: Visit) -> None:
        self._settings = settings
        self._visit = visit
        self._names = Names(has_biases=settings.attention_bias)
        self._site: str | None = None
        self.error: BaseException | None = None
        self.callback = lib.ggml_backend_sched_eval_callback(self._call)

    def _call(self, node: int, is_question: bool, _user: object) -> bool:  # noqa: FBT001  # C's
        try:
            if is_question:
                self._site = self._names.site(node)
                return self._site is not None
            self._show(node)
        except BaseException as error:  # noqa: BLE001  # cannot pass through C
            self.error = error
            return False
        return True

    def _show(self, node: int) -> None:
        site = self._site
        assert site is not None, "llama.cpp shows what it was asked for"
        replacement = self._visit(site, self._mapped(site, read(node), split_halves)[None])
        if replacement is not None:
            write(node, self._mapped(site, replacement[0], interleave))

    def _mapped(self, site: str, value_TC: Tensor, order: Any) -> Tensor:
        """Bring the channels of a Llama's queries and keys into our order, or back."""
        kind = kind_of(site)
        if kind not in ("q", "k", "q_rope", "k_rope") or family(self._settings) != LLAMA:
            return value_TC
        heads = self._settings.num_heads if kind[0] == "q" else self._settings.num_kv_heads
        turned: Tensor = order(value_TC.T, heads).T
        return turned


def input_rounding(path: Path) -> Rounding | None:
    """Say how llama.cpp rounds activations before it multiplies them with a file's matrices."""
    types = Counter(t.type for t in open_gguf(path).tensors.values() if len(t.shape) == 2)
    usual = types.most_common(1)[0][0]
    if usual in (TensorType.F16, TensorType.BF16):
        dtype = torch.float16 if usual is TensorType.F16 else torch.bfloat16
        return lambda value: value.to(dtype).to(value.dtype)
    block = INPUT_BLOCKS.get(usual)
    return partial(_in_blocks, block) if block else None


def _in_blocks(block: int, value_BTC: Tensor) -> Tensor:
    """Round to whole steps, of which the largest value of a block has 127."""
    if value_BTC.shape[-1] % block:
        block = value_BTC.shape[-1]
    blocks = value_BTC.reshape(*value_BTC.shape[:-1], -1, block)
    step = blocks.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return ((blocks / step).round() * step).reshape(value_BTC.shape)


def _declarations(settings: LlamaSettings) -> dict[str, Declaration]:
    """Declare all sites but the opened gate, which llama.cpp multiplies in the same node."""
    declared = declare(settings.num_layers, torch.float32)
    return {site: each for site, each in declared.items() if kind_of(site) != "ffn_silu"}


@contextmanager
def open_context(path: Path, num_tokens: int, callback: Any = None) -> Iterator[Any]:
    """Load a file into llama.cpp.

    Raises: UnsupportedFeatureError.
    """
    _silence()
    wanted = lib.llama_model_default_params()
    wanted.n_gpu_layers = 0
    # Repacked weights crash on processors with AMX.
    wanted.use_extra_bufts = False
    with ExitStack() as stack:
        model = lib.llama_model_load_from_file(bytes(path), wanted)
        if not model:
            raise UnsupportedFeatureError(path, "refused by llama.cpp", "a file that it loads")
        stack.callback(lib.llama_model_free, model)
        asked = lib.llama_context_default_params()
        asked.n_ctx = asked.n_batch = asked.n_ubatch = max(num_tokens, 32)
        asked.n_threads = asked.n_threads_batch = 1
        asked.type_k = asked.type_v = FLOAT32
        asked.flash_attn_type = 0
        if callback:
            asked.cb_eval = callback
        context = lib.llama_init_from_model(model, asked)
        stack.callback(lib.llama_free, context)
        yield context


def decode(context: Any, ids: list[int]) -> None:
    """Make one forward pass."""
    batch = lib.llama_batch_init(len(ids), 0, 1)
    try:
        _fill(batch, ids)
        status = lib.llama_decode(context, batch)
    finally:
        lib.llama_batch_free(batch)
    assert status == 0, "llama.cpp computes what it has loaded"


def _fill(batch: Any, ids: list[int]) -> None:
    """Ask for the scores of every token: else the last layer computes only the last one."""
    batch.n_tokens = len(ids)
    for position, token in enumerate(ids):
        batch.token[position] = token
        batch.pos[position] = position
        batch.n_seq_id[position] = 1
        batch.seq_id[position][0] = 0
        batch.logits[position] = 1


@cache
def _silence() -> Any:
    """Keep llama.cpp's log off stderr; the callback must outlive every call."""

    def ignore(_level: int, _text: bytes, _user: object) -> None:
        return

    callback = lib.llama_log_callback(ignore)
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    return callback
