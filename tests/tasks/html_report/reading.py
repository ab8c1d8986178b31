"""Read a page back: its elements, as a browser without a screen would."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "col"}


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    text: str = ""
    ancestors: tuple[str, ...] = ()


@dataclass
class Page(HTMLParser):
    """All elements of a page, with the text inside of each."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = Element(
            tag,
            {name: value or "" for name, value in attrs},
            ancestors=tuple(each.name for each in self.open),
        )
        self.elements.append(found)
        if tag not in VOID:
            self.open.append(found)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for each in self.open:
            each.text += data

    def all(self, name: str) -> list[Element]:
        return [each for each in self.elements if each.name == name]


def read_page(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page
