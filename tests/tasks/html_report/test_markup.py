"""What comes from a record cannot become markup."""

from tasks.html_report.markup import join, raw, table, tag
from tests.tasks.html_report.reading import read_page


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    inner = tag("b", "1 < 2 & 3")
    assert tag("p", inner, title='"<') == ('<p title="&quot;&lt;"><b>1 &lt; 2 &amp; 3</b></p>')


def test_a_string_that_looks_like_markup_is_text() -> None:
    assert tag("p", "<script>alert(1)</script>") == ("<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>")
    assert str(raw("<i></i>") + "") == "<i></i>"
    assert join([raw("<i></i>") + "<b>"]) == "&lt;i&gt;&lt;/i&gt;&lt;b&gt;"


def test_control_characters_are_spelled_out() -> None:
    assert tag("p", "a\x00b\x1b[31m\u202ec\nd") == "<p>a\\x00b\\x1b[31m\\u202ec\nd</p>"


def test_nothing_is_left_of_none() -> None:
    assert tag("p", None, ["a", None], class_=None) == "<p>a</p>"
    assert tag("br") == "<br>"


def test_a_table_has_a_caption_and_cells_that_know_their_column() -> None:
    page = read_page(table(("gate", "value"), [["one", "1"]], caption="Gates"))
    assert page.all("caption")[0].text == "Gates"
    assert [each.attributes["scope"] for each in page.all("th")] == ["col", "col", "row"]
    (cell,) = page.all("td")
    assert cell.attributes == {"role": "cell", "data-label": "value"}
