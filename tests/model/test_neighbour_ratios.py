from pathlib import Path

import pytest

from model.errors import ModelFormatError
from model.neighbour_ratios import neighbour_ratios, ratio_sentence, read_stds

TABLES = Path(__file__).parent.parent / "reference" / "ship-007-layer-3-anomaly"


@pytest.mark.parametrize("name", ["sub-ffn-per-layer-stds.csv", "per-layer-stds.csv"])
def test_the_reference_systems_anomaly_is_a_ratio_and_no_fault(name: str) -> None:
    found = {one.site: one for one in neighbour_ratios(read_stds(TABLES / name))}

    swigl = found["ffn_swigl"]
    assert (swigl.layer, swigl.std, swigl.rank) == (3, 1.2216, 3)
    assert (round(swigl.over_previous, 2), round(swigl.over_median, 2)) == (17.23, 5.48)
    assert ratio_sentence(swigl, 28) == (
        "layer 3 ffn_swigl: std 1.2216, ratio 17.23 against layer 2, 5.48 against the median, "
        "third-largest layer"
    )
    assert round(found["ffn_out"].over_previous, 2) == 52.98


def test_a_layer_that_is_not_among_the_largest_is_ranked_by_number() -> None:
    (found,) = neighbour_ratios({"q": [1.0, 9.0, 8.0, 0.5, 3.0]})

    assert (found.layer, found.rank) == (1, 1)
    (found,) = neighbour_ratios({"q": [9.0, 8.0, 7.0, 0.1, 2.0]})
    assert ratio_sentence(found, 5).endswith("4 of 5 layers by size")


@pytest.mark.parametrize(
    "text",
    ["", "layer,q\n0,1.0\n", "layer,q\n0,1.0\n2,1.0\n", "layer,q\n0,one\n1,2\n", "q\n1\n2\n",
     "layer,q\n0\n1,2\n"],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stds.csv"
    path.write_text(text)

    with pytest.raises(ModelFormatError):
        read_stds(path)
