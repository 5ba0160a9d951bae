"""Messages for bad input: one line that names the input, what is allowed, and the nearest name."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable
from typing import Any


class SpecError(ValueError):
    """A network that is unknown, contradictory or impossible. The message is one line."""


def closest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name that `name` most likely meant, or None."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(allowed)}
    wanted = name.lower()

    def far(candidate: str) -> tuple[float, int]:
        # Of equally similar names, the one whose number is nearest: resnet21 -> resnet20.
        ratio = difflib.SequenceMatcher(None, wanted, candidate).ratio()
        return -ratio, abs(_number(candidate) - _number(wanted))

    close = sorted(difflib.get_close_matches(wanted, by_lower, n=8, cutoff=0.6), key=far)
    return by_lower[close[0]] if close else None


def _number(name: str) -> int:
    return int("".join(re.findall(r"[0-9]", name)) or 0)


def choices(what: str, name: object, allowed: Iterable[str], limit: int = 30) -> str:
    """Return ``'WHAT "name"; did you mean "close"? Allowed: a, b, c'``, long lists cut short."""
    # Lists keep their order, which may carry meaning; a set has none that two runs agree on.
    names = sorted(allowed) if isinstance(allowed, set | frozenset) else list(allowed)
    shown = ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    text = " ".join(str(name).split())
    close = closest(text, names)
    hint = f'; did you mean "{close}"?' if close else "."
    return f'{what} "{text}"{hint} Allowed: {shown or "(none)"}'


def unknown(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Return the one-line message for a name that is not among `allowed`."""
    return choices(f"unknown {kind}", name, allowed)


def plain_int(value: Any) -> Any:
    """Return integers of other libraries (numpy's, say) as int, and anything else as it is."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    return operator.index(value)
