"""Messages for bad input: one line that names the input, what is allowed, and the nearest name."""

from __future__ import annotations

import contextlib
import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

#: The largest size, of anything: no network has it, and what is computed from it stays finite.
LARGEST = 2**31 - 1


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
    listed = ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
    text = shown(name, str)
    close = closest(text, names)
    hint = f'; did you mean "{close}"?' if close else "."
    return f'{what} "{text}"{hint} Allowed: {listed or "(none)"}'


def unknown(kind: str, name: object, allowed: Iterable[str]) -> str:
    """Return the one-line message for a name that is not among `allowed`."""
    return choices(f"unknown {kind}", name, allowed)


def choice(kind: str, value: Any, allowed: Iterable[str | None]) -> Any:
    """Return a name that is among `allowed`.

    Raises:
        SpecError: it is not.
    """
    names = list(allowed)
    if (value is not None and not isinstance(value, str)) or value not in names:
        raise SpecError(unknown(kind, value, map(str, names)))
    return value


def shown(value: object, form: Callable[[Any], str] = repr, most: int = 300) -> str:
    """Return what stands for a value in a message: one line, not long."""
    try:
        text = " ".join(form(value).split())
    except ValueError:  # an integer of more digits than Python writes
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= most else text[:most] + "…"


def nearby(path: Path) -> str:
    """Return what ends a message about a missing file: the one beside it that was meant, or ""."""
    with contextlib.suppress(OSError, ValueError):
        name = closest(path.name, [p.name for p in path.parent.iterdir()])
        if name:
            return f'; did you mean "{name}"?'
    return ""


def ordered(value: Any) -> tuple[Any, ...] | None:
    """Return the items of anything that has several in an order; None: it has not."""
    if not isinstance(value, str | bytes | Mapping | set | frozenset):
        with contextlib.suppress(TypeError):
            return tuple(value)
    return None


def plain(value: Any) -> Any:
    """Return numbers and switches of other libraries (numpy's, say) as Python's, others as is."""
    if isinstance(value, int | float):
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in ("b", "f") and getattr(value, "shape", None) == ():
        return bool(value) if kind == "b" else float(value)
    if hasattr(value, "__index__"):
        with contextlib.suppress(TypeError, ValueError, AttributeError):  # an array of several
            return operator.index(value)
    return value


def integer(name: str, value: Any, least: int = 1, most: float = LARGEST) -> int:
    """Return an integer of any library as an int.

    Args:
        name: of the argument, for the message.
        value: what was given.
        least: the smallest that is allowed.
        most: the largest.

    Raises:
        SpecError: it is none, or not allowed.
    """
    found = plain(value)
    whole = isinstance(found, int) and not isinstance(found, bool)
    if whole and least <= found <= most:
        return int(found)
    allowed = "a positive integer" if least == 1 else f"an integer of at least {least}"
    limit = f" of at most {most}" if least == 1 else f" and at most {most}"
    too_large = limit if whole and found > most else ""
    raise SpecError(f"{name} takes {allowed}{too_large}, not {shown(value)}")


def number(
    name: str,
    value: Any,
    allowed: str = "a finite number",
    test: Callable[[float], bool] = math.isfinite,
) -> float:
    """Return a finite number of any library as a float.

    Args:
        name: of the argument, for the message.
        value: what was given.
        allowed: which numbers are, in words.
        test: whether one is.

    Raises:
        SpecError: it is none, or not allowed.
    """
    found = plain(value)
    if isinstance(found, int | float) and not isinstance(found, bool):
        with contextlib.suppress(OverflowError):  # of an integer that no float holds
            if math.isfinite(found) and test(found):
                return float(found)
    raise SpecError(f"{name} takes {allowed}, not {shown(value)}")


def switch(name: str, value: Any) -> bool:
    """Return True or False of any library as a bool.

    Raises:
        SpecError: it is neither.
    """
    found = plain(value)
    if not isinstance(found, bool):
        raise SpecError(f"{name} takes True or False, not {shown(value)}")
    return found
