"""A section of the page: what its heading says, and where links to it lead."""

from dataclasses import dataclass

from tasks.html_report.markup import Child, Markup, tag


@dataclass(frozen=True, slots=True)
class Section:
    """One section, and its entry in the list of contents."""

    identity: str
    title: str
    body: Markup

    @property
    def link(self) -> Markup:
        """Write the link to it."""
        return tag("a", self.title, href=f"#{self.identity}")


def section(identity: str, title: str, *children: Child) -> Section:
    """Make a section under its heading."""
    heading = f"{identity}-heading"
    body = tag(
        "section", tag("h2", title, id=heading), children, id=identity, aria_labelledby=heading
    )
    return Section(identity, title, body)
