"""A grid's YAML file -> nested mappings, lists and strings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ablations.grids.fields import GridError


class _Loader(yaml.BaseLoader):
    """BaseLoader that refuses a key that stands twice, where PyYAML keeps the last silently.

    BaseLoader leaves every scalar a string: YAML itself reads `no` as False and 1e-4 as text.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise GridError(
                        f'the key "{key.value}" stands twice in one mapping, in lines '
                        f"{lines[key.value]} and {line}"
                    )
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def read(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return the content of a grid's file; every scalar is a string.

    Args:
        path: of the file.
        keys: that a grid can have, for the message.

    Raises:
        GridError: it is not a YAML mapping, it is nested too deep, or a key stands twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    except GridError as error:
        raise GridError(f"{path}: {error}") from None
    except RecursionError:
        raise GridError(f"{path}: mappings and lists are nested too deep for a grid") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise GridError(f"{path} is not YAML: {first}") from None
    if not isinstance(content, dict):
        raise GridError(f"{path}: a grid is a mapping with the keys {', '.join(keys)}")
    return content
