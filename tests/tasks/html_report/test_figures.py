"""Numbers as they are read by people."""

import pytest

from tasks.html_report import figures

RECORD = {"stage": "train", "measurements": {"loss": 3.14159265, "share": 0.25, "gone": None}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (5.0, "5"),
        (1234567, "1,234,567"),
        (3.14159265, "3.142"),
        (0.0216296, "0.02163"),
        (2.5e-7, "2.50e-07"),
        (-0.05011, "-0.05011"),
        (123456.789, "123,457"),
        (float("inf"), "inf"),
        (True, "True"),
        ("CONVERGED", "CONVERGED"),
        (None, "not measured"),
    ],
)
def test_a_number_has_as_many_digits_as_are_compared(value: object, said: str) -> None:
    assert figures.number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.003, "0.003"),
        (1.5, "1.5"),
        (1234.0, "1,234"),
        (9999, "9,999"),
        (40_960, "41k"),
        (819_200, "819k"),
        (3_737_856, "3.74M"),
        (7.4e9, "7.4G"),
        (2e13, "20T"),
    ],
)
def test_a_large_count_is_scaled_by_what_its_letter_says(value: float, said: str) -> None:
    assert figures.scaled(value) == said


def test_times_sizes_shares_and_errors_have_their_units() -> None:
    assert [figures.duration(each) for each in (5.517, 245.0, 7_260.0, 180_000.0)] == [
        "5.52 s",
        "4 min 5 s",
        "2 h 1 min",
        "2 d 2 h",
    ]
    assert [figures.size(each) for each in (12, 1_680_492, 25_276_502_016, 3e12)] == [
        "12 B",
        "1.68 MB",
        "25.3 GB",
        "3 TB",
    ]
    assert (figures.share(0.0143), figures.reach(0.02163)) == ("1.43%", "± 0.022")


def test_a_number_that_was_planned_is_written_as_it_was_planned() -> None:
    assert [figures.planned(each) for each in (1e-5, 0.3, 366_000_000.0, None)] == [
        "1e-05",
        "0.3",
        "366,000,000",
        "not measured",
    ]


def test_a_measurement_says_its_exact_value_and_its_place() -> None:
    assert figures.measured(RECORD, "loss") == (
        '<data value="3.14159265" title="train.loss = 3.14159265" data-from="train.loss">'
        "3.142</data>"
    )
    assert ">25%</data>" in figures.percent(RECORD, "share")


def test_what_was_not_measured_is_no_number() -> None:
    for found in (figures.measured(RECORD, "gone"), figures.measured(None, "loss")):
        assert "<data" not in found
        assert "not measured" in found
    assert "no record.loss was not measured" in figures.measured(None, "loss")
