"""Names of arms: made of the names of their levels, fit for directories and tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from ablations.grids.fields import GridError, level_name

#: Programs that read a table, or a command line, take a leading = + - @ for a formula or an option;
#: matplotlib leaves a leading _ out of its legends.
_NAME = re.compile(r"[^\W_][\w.+=-]*")
#: File systems hold 255; a table shows no such name.
_MOST_BYTES = 100
_RENAME = "(labels: {factor: {level: label}} renames levels)"


def arm_name(combination: Mapping[str, Any], labels: Mapping[str, Mapping[str, str]]) -> str:
    """Return what an arm is called: "plain-20"; the names of its levels, empty ones left out.

    Args:
        combination: factor -> level.
        labels: factor -> name of a level -> what it is called instead.
    """
    parts: list[str] = []
    for factor, level in combination.items():
        part = labels.get(factor, {}).get(level_name(level), level_name(level))
        if part.startswith("-") and not parts:
            part = f"{factor}={part}"  # a negative number in front would begin like an option
        parts += [part] if part else []
    return "-".join(parts)


def check_name(name: str, others: dict[str, str]) -> None:
    """Refuse a name that cannot be a directory beside others, or that tables misread.

    Args:
        name: of an arm.
        others: names before it, by what a file system that ignores case compares; gets this one.

    Raises:
        GridError: the message says what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise GridError(
            f'arm "{name}" names a directory: use letters, digits and ._+=-, a letter or digit '
            f"first {_RENAME}"
        )
    if (size := len(name.encode())) > _MOST_BYTES:
        raise GridError(
            f'arm "{name[:20]}…" names a directory: at most {_MOST_BYTES} bytes, not {size} '
            f"{_RENAME}"
        )
    key = unicodedata.normalize("NFC", name).casefold()
    if key in others:
        other = others[key]
        raise GridError(
            f'two arms are called "{name}"'
            if name == other
            else f'arms "{other}" and "{name}" name one directory where case does not count; '
            f"rename one {_RENAME}"
        )
    others[key] = name
