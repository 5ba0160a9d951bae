"""HTML that is safe by construction: text is escaped unless it is markup made here."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import Any

#: What no HTML document may hold: most control characters, and halves of surrogate pairs.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


_VOID = ("br", "input", "link", "meta", "wbr")


class Markup(str):
    """A string that needs no escaping any more."""


def h(tag: str, *children: str, **attributes: str | int | float | bool | None) -> Markup:
    """Return an element. Children and values are escaped unless they are `Markup`.

    Attributes: class_ is class, http_equiv is http-equiv; True stands alone, False and None not.
    """
    opening = tag
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            opening += f" {name}"
        elif value is not False and value is not None:
            opening += f' {name}="{escape(str(value))}"'
    if tag in _VOID:
        return Markup(f"<{opening}>")
    inner = "".join(c if isinstance(c, Markup) else escape(c) for c in children)
    return Markup(f"<{opening}>{inner}</{tag}>")


def escape(text: str) -> str:
    """Return text for an element or a quoted attribute."""
    return html.escape(_FORBIDDEN.sub("\ufffd", text), quote=True)


def json_text(value: Any) -> str:
    """Return JSON that no script element can end in: ASCII, without <, > and &."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def digest(text: str) -> str:
    """Return what a Content-Security-Policy calls an inline style or script: its SHA-256."""
    found = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(found).decode()}"
