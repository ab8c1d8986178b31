"""Heat maps: of the sealed model against the trained one, and of two models with a fault."""

from pathlib import Path

import pytest
import torch

from model.apr_model import write_model
from tasks.html_report.bisect_section import worst_errors
from tasks.html_report.heat_map import NUM_SHADES, heat_map, shade_of
from tasks.html_report.page import report_page
from tasks.model_bisection import bisect_models
from tasks.run_record import Run
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer
from tests.tasks.html_report.reading import Page, read_page
from tests.tasks.tiny import Finished


def test_values_get_darker_by_powers_of_ten_and_what_is_no_number_is_darkest() -> None:
    shade = shade_of(1e-8, 1e-2)
    values = (0.0, 1e-12, 1e-8, 1e-5, 1e-2, 5.0, float("nan"), None)
    assert [shade(value) for value in values] == [0, 1, 1, 4, 7, 7, NUM_SHADES, NUM_SHADES]


def test_a_map_has_layers_down_and_operations_across() -> None:
    sites = {"embed": 0.0, "layers.0.q": 0.0, "layers.0.v": 1.0, "layers.10.q": 0.0}
    found = heat_map(sites, shade_of(0.1, 1.0), str, caption="Errors")
    assert found is not None
    page = read_page(found)
    assert [each.text for each in page.all("th")] == ["layer", "q", "v", "0", "10"]
    cells = [(each.attributes["title"], each.attributes["class"]) for each in page.all("td")]
    assert cells == [
        ("layer 0 q: 0.0", "shade-0"),
        ("layer 0 v: 1.0", "shade-7"),
        ("layer 10 q: 0.0", "shade-0"),
        ("layer 10 v: None", "shade-8"),
    ]
    assert heat_map({"embed": 0.0}, shade_of(0.1, 1.0), str, caption="Errors") is None


def test_of_several_files_the_worst_counts_and_nan_is_worse() -> None:
    def file(*errors: float | None) -> list[dict[str, object]]:
        return [{"site": name, "relative_l2": e} for name, e in zip("abc", errors, strict=True)]

    files = {"one": file(0.0, 2.0, None), "two": file(1.0, 0.5, 3.0)}
    assert worst_errors(files) == {"a": 1.0, "b": 2.0, "c": None}


def shades(page: Page, caption: str) -> dict[str, str]:
    """Site and shade of the cells of one map."""
    cells, is_inside = {}, False
    for each in page.elements:
        if each.name == "caption":
            is_inside = each.text.startswith(caption)
        elif is_inside and each.attributes.get("class", "").startswith("shade-"):
            cells[each.attributes["title"].split(":")[0]] = each.attributes["class"]
    return cells


def test_a_sealed_model_that_is_the_trained_one_has_an_even_map(reading: Finished) -> None:
    found = shades(read_page(report_page(reading.run)), "Departure of the sealed files")
    assert len(found) == 2 * 16
    assert set(found.values()) == {"shade-0"}


@pytest.fixture
def faulty(home: Path) -> Run:
    """Two models that differ in one row of one matrix."""
    settings, tensors = small_settings(), small_tensors()
    name = "model.layers.1.mlp.down_proj.weight"
    zero = torch.zeros(1, tensors[name].shape[1])
    wrong = {**tensors, name: torch.cat((zero, tensors[name][1:]))}
    tokenizer = small_tokenizer().to_str()
    for file, weights in (("right.apr", tensors), ("wrong.apr", wrong)):
        write_model(home / file, settings, weights, tokenizer_json=tokenizer, provenance={})
    sides = (str(home / "wrong.apr"), str(home / "right.apr"))
    run, _ = bisect_models("hunt", *sides, None, "1,2,3,4", "cpu")
    return run


def test_a_fault_is_dark_where_it_is_and_is_the_headline(faulty: Run) -> None:
    page = read_page(report_page(faulty))
    (verdict,) = [each for each in page.elements if each.attributes.get("role") == "status"]
    assert "Fault" in verdict.text
    assert "1 of 35 operations depart by themselves." in verdict.text
    found = shades(page, "Local error of every operation")
    assert [site for site, shade in found.items() if shade == "shade-7"] == ["layer 1 ffn_out"]
    assert "row 0 is zero" in next(
        each.text for each in page.all("table") if "earliest first" in each.text
    )
