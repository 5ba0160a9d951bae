"""Writes docs/models.md and docs/spec.md from the catalogue, the spec and the published figures.

python docs/make_tables.py
"""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import reszoo
from reszoo import ResNetSpec, catalog
from reszoo.rules import RULES

HERE = Path(__file__).parent
PUBLISHED = Path(reszoo.__file__).parent / "data" / "published.csv"

#: Family -> (regular expression of its names, whether they are for small images, text).
FAMILIES: dict[str, tuple[str, bool, str]] = {
    "ResNet": (
        r"resnet(18|34|50|101|152)",
        False,
        "arXiv 1512.03385, Table 1. Shortcut B; bottlenecks stride in the first 1x1 (v1).",
    ),
    "Plain": (r"plain\d+", False, "arXiv 1512.03385: the same layers without shortcuts."),
    "ResNet for CIFAR": (
        r"resnet(20|32|44|56|110|1202)",
        True,
        "arXiv 1512.03385, sec. 4.2. Shortcut A; other depths of 6n+2 layers by `depth=`.",
    ),
    "Plain for CIFAR": (r"plain\d+", True, "arXiv 1512.03385, sec. 4.2."),
    "ResNet, v1.5 and other depths": (
        r"resnet(10|14|26|200|\d+b|50_gn)",
        False,
        "`b`: bottlenecks stride in the 3x3 (v1.5: torchvision, timm). `gn`: group normalisation.",
    ),
    "ResNet-C, -D, -S, -T": (
        r"resnet\d+[cdst]",
        False,
        "arXiv 1812.01187 (C, D), Gluon (S), timm (T): three 3x3 convolutions as stem; D and T "
        "average before strided projections.",
    ),
    "Anti-aliased ResNet": (
        r"resnet(aa|blur)\d+d?",
        False,
        "arXiv 1904.11486 as timm has it: 2x2 averages (aa) or 3x3 blurs instead of strides.",
    ),
    "ResNet-RS": (r"resnetrs\d+", False, "arXiv 2103.07579."),
    "Wide ResNet": (r"wide_resnet\d+_2", False, "arXiv 1605.07146, torchvision."),
    "ResNeXt": (r"resnext.+", False, "arXiv 1611.05431. `32x4d`: 32 groups, base width 4."),
    "Squeeze-and-excitation": (
        r"(legacy_)?se(resnet|resnext|resnextaa|net)\d.+",
        False,
        "arXiv 1709.01507. `legacy`: the Caffe nets; the others: timm.",
    ),
    "Efficient channel attention": (r"ecaresnet.+", False, "arXiv 1910.03151, timm."),
    "Pre-activation ResNet": (
        r"preresnet\d+b?",
        False,
        "arXiv 1603.05027: conv1, norm and activation, then the max-pool (fb.resnet.torch). osmr's "
        "nets have a second norm and activation after it.",
    ),
    "Pre-activation ResNet of timm": (
        r"resnetv2_\d+[dt]?(_gn)?",
        False,
        "The max-pool follows conv1; the first unit's shortcut leaves before the activation.",
    ),
    "Big Transfer": (
        r"resnetv2_\d+x\d_bit",
        False,
        "arXiv 1912.11370: group normalisation, standardised weights, `x3`: three times as wide.",
    ),
    "Pre-activation ResNet of keras.applications": (
        r"resnet\d+v2",
        False,
        "The stride stands in the last block of a stage; some convolutions have biases.",
    ),
    "Bottlenecks for CIFAR": (
        r"resnet(164|272|542|1001)",
        True,
        "arXiv 1603.05027: the original unit in 9n+2 layers.",
    ),
    "Pre-activation ResNet for CIFAR": (r"preresnet\d+", True, "arXiv 1603.05027."),
    "Wide ResNet for CIFAR": (
        r"wrn\d+-\d+",
        True,
        "arXiv 1605.07146: depth-factor. Its depth counts the projections.",
    ),
    "ResNeXt for CIFAR": (r"resnext.+", True, "arXiv 1611.05431."),
    "Squeeze-and-excitation for CIFAR": (r"se.+", True, "arXiv 1709.01507, Table 4."),
    "VGG": (r"vgg.+", False, "arXiv 1409.1556: comparators, no residual networks."),
}

CONFIDENCE = """\
Confidence: **verified** figures were checked at the source, **single-source** ones seen in one
place only, **recalled** ones written from memory and not checked. Errors are the publications',
not ours, and comparable only where protocol and input agree."""

EXAMPLE = """\
A published network that differs from a known one in some fields is that one with overrides:

```python
import reszoo

reszoo.complexity("seresnext26t_32x4d", attention="eca").parameters  # 15406220
```

To give it a name, add its fields to `reszoo/catalog.py`, next to its family, or at run time:

```python
from reszoo import catalog

catalog.NETWORKS["ecaresnext26t_32x4d"] = {
    **catalog.NETWORKS["seresnext26t_32x4d"],
    "attention": "eca",
}
reszoo.complexity("ecaresnext26t_32x4d").parameters  # 15406220; timm's has 15.41 M
```

`build`, `describe`, `complexity`, `names` and the weight readers know it from then on: all of them
read the layer plan. For the repository, add its published figures to `reszoo/data/published.csv`
(they are tested) and run `python docs/make_tables.py`.

Something that no field says needs a new field: in `ResNetSpec` with its values and docstring, its
layers in `reszoo/residual.py`, a `Rule` for each combination that makes no network, and its values
in `AXES` of `tests/strategies.py`, which puts it into all pairs and random networks."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of reszoo/data/published.csv.

    Attributes:
        network: our name; "" where the catalogue cannot express it (`absent` says why).
        overrides: spec fields that differ from the name's.
        label, source, protocol, note, confidence: as published and how far checked.
        input: height and width in pixels.
        classes: of the classifier.
        parameters: as published; None where not.
        extra: of those, what we do not count: moving statistics, biases that a norm cancels, a
            second norm.
        gmacs: 1e9 multiply-accumulates.
        top1_error, top5_error: in %, as text; "" where not published.
        absent: why no catalogue network is this one.
    """

    network: str
    overrides: dict[str, Any]
    label: str
    source: str
    input: int
    classes: int
    parameters: int | None
    extra: int
    gmacs: float | None
    top1_error: str
    top5_error: str
    protocol: str
    note: str
    confidence: str
    absent: str

    def arguments(self) -> dict[str, Any]:
        """Return the overrides with which `reszoo.build` makes this network."""
        size = {"input_shape": (self.input, self.input, 3), "classes": self.classes}
        return {**size, **self.overrides}


def published() -> list[Published]:
    """Read reszoo/data/published.csv."""
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        return [_published(row) for row in csv.DictReader(file)]


def _published(row: dict[str, str]) -> Published:
    pairs = (pair.split("=") for pair in filter(None, row["overrides"].split(";")))
    values: dict[str, Any] = {
        **row,
        "overrides": {name: _value(text) for name, text in pairs},
        "input": int(row["input"]),
        "classes": int(row["classes"]),
        "parameters": int(row["parameters"]) if row["parameters"] else None,
        "extra": int(row["extra"] or 0),
        "gmacs": float(row["gmacs"]) if row["gmacs"] else None,
    }
    return Published(**values)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def family(name: str) -> str:
    """Return the family of a catalogue name."""
    small = name in catalog.NETWORKS and catalog.NETWORKS[name]["stem"] == "cifar"
    found = [
        title
        for title, (pattern, is_small, _) in FAMILIES.items()
        if is_small == small and re.fullmatch(pattern, name)
    ]
    if len(found) != 1:
        raise ValueError(f"{name} belongs to {found or 'no family'}: see FAMILIES")
    return found[0]


def models_page() -> str:
    """Return docs/models.md."""
    rows = published()
    names = reszoo.names()
    parts = [
        "# Networks",
        f"{len(names)} names. Parameters are trainable ones; GMACs are 1e9 multiply-accumulates of "
        "convolutions and fully connected layers for one image of the stated size. Fields not "
        "named have their [default](spec.md). Both counts equal every published one "
        "(`tests/test_counts.py`). Generated by `python docs/make_tables.py`.",
        CONFIDENCE,
    ]
    for title, (_, _, text) in FAMILIES.items():
        members = [name for name in names if family(name) == title]
        figures = [row for name in members for row in rows if row.network == name]
        parts += [f"## {title}", text, table(_MODELS, map(_model, members))]
        if errors := [_error(row) for row in figures if row.top1_error or row.top5_error]:
            parts.append(table(_ERRORS, errors))
    absent: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.absent:
            absent.setdefault((row.source, row.absent), []).append(row.label)
    parts += [
        "## Published, but not here",
        table(
            ("published as", "source", "why not"),
            [(", ".join(labels), *where) for where, labels in absent.items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


_MODELS = ("name", "parameters", "GMACs", "input", "what it is")
_ERRORS = ("network", "published as", "top-1 %", "top-5 %", "input", "protocol", "source",
           "confidence")  # fmt: skip


def _model(name: str) -> tuple[str, ...]:
    plan = reszoo.plan(name)
    counts = reszoo.complexity(name)
    height, width = plan.layers[0].size
    return (
        f"`{name}`", f"{counts.parameters:,}", f"{counts.macs / 1e9:.4f}", f"{height}x{width}",
        _what(plan.spec) if plan.spec else _vgg(name),
    )  # fmt: skip


def _vgg(name: str) -> str:
    convolutions = "-".join(str(len(widths)) for widths in catalog.VGG[name])
    return f"3x3 convolutions {convolutions}" + ", normalised" * name.endswith("_bn")


def _what(spec: ResNetSpec) -> str:
    """Return blocks and fields that are not as in the paper's network of the same blocks."""
    small = spec.stem == "cifar"
    usual = ResNetSpec(
        stem="cifar" if small else "imagenet",
        block=spec.block,
        depths=spec.depths,
        widths=(16, 32, 64) if small else (64, 128, 256, 512),
        classes=spec.classes,
        input_shape=spec.input_shape,
    )
    changes = {name: mine for name, (mine, _) in spec.diff(usual).items()}
    if spec.stem_width == spec.widths[0]:
        changes.pop("stem_width", None)
    return ", ".join([f"{spec.block} {'-'.join(map(str, spec.depths))}", *_fields(changes)])


def _fields(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, (tuple, list)):
            value = "-".join(map(str, value))
        yield f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _error(row: Published) -> tuple[str, ...]:
    network = ", ".join([f"`{row.network}`", *_fields(row.overrides)])
    label = "" if row.label == row.network else row.label
    return (
        network, label, row.top1_error, row.top5_error, f"{row.input}", row.protocol, row.source,
        row.confidence,
    )  # fmt: skip


def table(head: Sequence[str], rows: Any) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def field_texts() -> dict[str, str]:
    """Return the fields of ResNetSpec with their paragraphs in its docstring."""
    text = (inspect.getdoc(ResNetSpec) or "").split("Attributes:\n")[1]
    found = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text, re.M)
    return {name: " ".join(paragraph.split()) for name, paragraph in found}


def spec_page() -> str:
    """Return docs/spec.md."""
    texts = field_texts()
    rows = [
        (f"`{field.name}`", _default(field), texts[field.name].replace("``", "`"))
        for field in dataclasses.fields(ResNetSpec)
    ]
    refused = [
        (rule.combination, ", ".join(f"`{name}`" for name in rule.fields), rule.reason)
        for rule in RULES
    ]
    intro, _, _ = (inspect.getdoc(ResNetSpec) or "").partition("\n\nAttributes:")
    _, _, intro = intro.partition("\n\n")
    return (
        "\n\n".join(
            [
                "# ResNetSpec",
                "All that determines a network. `reszoo.spec(name)` returns a name's, "
                "`reszoo.spec(name, field=value, …)` a changed one; `build`, `describe` and "
                "`complexity` take the same overrides, and two derived ones: `depth` (weighted "
                "layers) and `width` (channels of the first stage; the others scale with it). "
                "Generated by `python docs/make_tables.py`.",
                intro.replace("``", "`"),
                "## Fields",
                table(("field", "default", "values and meaning"), rows),
                "## Refused combinations",
                "Each raises `reszoo.SpecError`, a one-line message with the reason "
                "(`reszoo.rules.RULES`).",
                table(("refused", "fields", "reason"), refused),
                "Refused when the input size is known: maps too small for a kernel, and "
                '`antialias="average"` on maps of odd size, where its 2x2 averages round down and '
                "shortcuts round up.",
                "## Adding a variant",
                EXAMPLE,
            ]
        )
        + "\n"
    )


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return "derived" if field.default is None else f"`{field.default!r}`"


def main() -> None:
    """Write both pages."""
    (HERE / "models.md").write_text(models_page(), encoding="utf-8")
    (HERE / "spec.md").write_text(spec_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
