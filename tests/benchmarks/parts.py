"""Processor seconds of the parts of a stage, each without the parts inside it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

ONCE = "once"


class Parts:
    """A clock that is always on exactly one part: the innermost that has begun."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open = ["rest"]
        self._since = time.process_time()

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Time a function of a module or of a class; what it yields is timed as well."""
        plain = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            found = self._timed(part, lambda: plain(*arguments, **named))
            return self._each(part, found) if isinstance(found, Iterator) else found

        setattr(owner, name, timed)

    def stop(self) -> dict[str, float]:
        """Return what has been counted."""
        self._switch()
        return dict(self.seconds)

    def _timed(self, part: str, work: Callable[[], Any]) -> Any:
        self._switch()
        self._open.append(part)
        try:
            return work()
        finally:
            self._switch()
            self._open.pop()

    def _each(self, part: str, found: Iterator[Any]) -> Iterator[Any]:
        nothing = object()
        while (item := self._timed(part, lambda: next(found, nothing))) is not nothing:
            yield item

    def _switch(self) -> None:
        now = time.process_time()
        # What is done once is one part, whatever is inside it.
        part = next((name for name in self._open if name.startswith(ONCE)), self._open[-1])
        self.seconds[part] += now - self._since
        self._since = now
