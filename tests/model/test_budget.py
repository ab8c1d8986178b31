from model.budget import budget_sentence, planned_tokens
from model.llama import Llama, num_parameters
from tests.model import tiny


def test_a_budget_counts_every_target_of_every_step() -> None:
    assert planned_tokens(tiny.TRAIN, tiny.CONTEXT) == 10 * 3 * 16


def test_a_budget_is_told_beside_the_parameters_of_the_model() -> None:
    for settings in (tiny.LLAMA, tiny.QWEN2):
        said = budget_sentence(settings, tiny.TRAIN, tiny.CONTEXT)

        parameters = num_parameters(Llama(settings))
        ratio = f"{480 / parameters:.3g}"
        expected = f"480 tokens for {parameters:,} parameters, {ratio} a parameter (Chinchilla: 20)"
        assert said == expected
