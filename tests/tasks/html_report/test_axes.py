"""Ranges, ticks, and curves of fewer points."""

import random

import pytest

from tasks.html_report.axes import NUM_SPANS, Scale, even_ticks, scale_of, thin


def test_a_range_is_laid_on_zero_to_one() -> None:
    even, powers = Scale(2.0, 4.0), Scale(0.1, 1000.0, is_log=True)
    assert [even.place(each) for each in (2.0, 3.0, 4.0)] == [0.0, 0.5, 1.0]
    assert [powers.place(each) for each in (0.1, 10.0, 1000.0)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (2.9, 6.4, [3, 4, 5, 6]),
        (0.0, 0.0031, [0, 0.001, 0.002, 0.003]),
        (0, 98_000, [0, 20_000, 40_000, 60_000, 80_000]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert even_ticks(low, high) == ticks


def test_a_range_of_powers_has_powers_as_ticks() -> None:
    assert Scale(0.05, 2000.0, is_log=True).ticks() == [0.1, 1.0, 10.0, 100.0, 1000.0]
    assert Scale(2.0, 9.0, is_log=True).ticks() == [2, 4, 6, 8]


def test_one_value_has_a_range_around_it() -> None:
    for is_log in (False, True):
        found = scale_of([5.0], is_log=is_log)
        assert found.low < 5.0 < found.high
    assert scale_of([0.0]).low < 0 < scale_of([0.0]).high
    assert scale_of([0.0, 0.0], is_log=True).low > 0


def test_few_points_stay_as_they_are() -> None:
    points = [(float(step), 1.0) for step in range(2 * NUM_SPANS)]
    assert thin(points) == points


def test_of_many_points_every_extreme_stays() -> None:
    noise = random.Random(1)
    points = [(float(step), noise.random()) for step in range(10_000)]
    points[6_123], points[1_234] = (6_123.0, 99.0), (1_234.0, -99.0)
    kept = thin(points, num_spans=100)
    assert len(kept) <= 202
    assert {points[0], points[-1], points[6_123], points[1_234]} <= set(kept)
    assert kept == sorted(kept)
    for begin in range(0, 10_000, 100):
        inside = [value for _, value in points[begin : begin + 100]]
        shown = [value for step, value in kept if begin <= step < begin + 100]
        assert (min(shown), max(shown)) == (min(inside), max(inside))
