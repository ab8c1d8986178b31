"""Path patterns: `*` and `?` stay within a segment, `**` crosses segments, all else is literal.

Patterns are matched against the whole relative POSIX path, so that `**/*.py` also finds `a.py`.
"""

import re
from collections.abc import Callable, Iterable

TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
REGEX_OF = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Compile patterns to one predicate, true when any of them matches."""
    regexes = [
        "".join(REGEX_OF.get(t) or re.escape(t) for t in TOKENS.findall(p)) for p in patterns
    ]
    # The impossible look-ahead keeps an empty list of patterns from matching the empty path.
    union = re.compile("|".join(f"(?:{regex})" for regex in regexes) or r"(?!)", re.DOTALL)
    return lambda path: union.fullmatch(path) is not None
