"""The smallest model, settings and batches that exercise every branch."""

from dataclasses import replace

import numpy as np

from model.llama import LlamaSettings
from model.train_settings import TrainSettings
from model.training_state import TrainingState, new_state

CONTEXT = 16

LLAMA = LlamaSettings(
    vocab_size=61,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=48,
    max_position_embeddings=CONTEXT,
    rope_theta=10_000.0,
    rms_norm_eps=1e-5,
    initializer_std=0.1,
    attention_bias=False,
    tie_embeddings=False,
)

QWEN2 = replace(LLAMA, attention_bias=True, tie_embeddings=True)

TRAIN = TrainSettings(
    seed=1,
    num_steps=10,
    steps_per_epoch=4,
    batch_rows=3,
    micro_batch_rows=3,
    max_passes=1,
    optimizer="adamw",
    precision="float32",
    schedule="cosine",
    peak_lr=1e-2,
    final_lr_ratio=0.1,
    warmup_steps=2,
    decay_steps=0,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    adam_eps=1e-8,
    muon_momentum=0.95,
    clip_norm=1.0,
    spike_response="stop",
    spike_window=100,
    spike_deviations=6.0,
    max_spikes=0,
    early_stop_patience=5,
    early_stop_min_epochs=3,
    early_stop_errors=1.0,
    target_val_loss=2.0,
    document_masking=False,
)

MUON = replace(TRAIN, optimizer="muon")


def state(train: TrainSettings = TRAIN) -> TrainingState:
    return new_state(LLAMA, train, "cpu")


def rows(num_batches: int, *, batch_rows: int = TRAIN.batch_rows, seed: int = 0) -> np.ndarray:
    """Shapes: (num_batches, batch_rows, CONTEXT + 1)."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, LLAMA.vocab_size, (num_batches, batch_rows, CONTEXT + 1))
