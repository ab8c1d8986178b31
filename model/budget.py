"""What a training will see, beside what a model of its size is worth training on."""

from math import prod

from model.architecture import expected_tensors
from model.llama import LlamaSettings
from model.train_settings import TrainSettings

CHINCHILLA = 20
"""Tokens a parameter at which compute is spent best.

Source: Hoffmann et al. 2022, arXiv:2203.15556, table 3.
"""


def planned_tokens(train: TrainSettings, context_length: int) -> int:
    """Count the targets of all steps, of which padding may take some."""
    return train.num_steps * train.batch_rows * context_length


def budget_sentence(llama: LlamaSettings, train: TrainSettings, context_length: int) -> str:
    """Say what is planned."""
    tokens = planned_tokens(train, context_length)
    parameters = sum(map(prod, expected_tensors(llama).values()))
    return (
        f"{tokens:,} tokens for {parameters:,} parameters, {tokens / parameters:.3g} a parameter "
        f"(Chinchilla: {CHINCHILLA})"
    )
