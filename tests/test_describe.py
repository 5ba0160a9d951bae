"""The printed architecture against Table 1 of He et al. 2015, typed in from the paper."""

from __future__ import annotations

import dataclasses
import re
import sys

import pytest
from conftest import ROOT

import reszoo
from reszoo import ResNetSpec, catalog
from reszoo.rules import RULES
from reszoo.specs import CHOICES

sys.path.insert(0, str(ROOT / "docs"))
import make_tables

# layer name, output size, and for each depth: rows of the bracket, times.
TABLE_1 = {
    "conv2_x": ("56x56", {
        18: (["3x3, 64", "3x3, 64"], 2), 34: (["3x3, 64", "3x3, 64"], 3),
        50: (["1x1, 64", "3x3, 64", "1x1, 256"], 3),
        101: (["1x1, 64", "3x3, 64", "1x1, 256"], 3),
        152: (["1x1, 64", "3x3, 64", "1x1, 256"], 3)}),
    "conv3_x": ("28x28", {
        18: (["3x3, 128", "3x3, 128"], 2), 34: (["3x3, 128", "3x3, 128"], 4),
        50: (["1x1, 128", "3x3, 128", "1x1, 512"], 4),
        101: (["1x1, 128", "3x3, 128", "1x1, 512"], 4),
        152: (["1x1, 128", "3x3, 128", "1x1, 512"], 8)}),
    "conv4_x": ("14x14", {
        18: (["3x3, 256", "3x3, 256"], 2), 34: (["3x3, 256", "3x3, 256"], 6),
        50: (["1x1, 256", "3x3, 256", "1x1, 1024"], 6),
        101: (["1x1, 256", "3x3, 256", "1x1, 1024"], 23),
        152: (["1x1, 256", "3x3, 256", "1x1, 1024"], 36)}),
    "conv5_x": ("7x7", {
        18: (["3x3, 512", "3x3, 512"], 2), 34: (["3x3, 512", "3x3, 512"], 3),
        50: (["1x1, 512", "3x3, 512", "1x1, 2048"], 3),
        101: (["1x1, 512", "3x3, 512", "1x1, 2048"], 3),
        152: (["1x1, 512", "3x3, 512", "1x1, 2048"], 3)}),
}  # fmt: skip
FLOPS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}


def read(text: str) -> dict[str, tuple[str, list[str], int]]:
    """Return layer name -> (output size, rows of its bracket, times)."""
    table: dict[str, tuple[str, list[str], int]] = {}
    name = size = ""
    for line in text.splitlines():
        if match := re.match(r"(conv\d(?:_x)?)\s+(\d+x\d+)\s", line):
            name, size = match.groups()
            table[name] = (size, [], 1)
        if match := re.search(r"\[ (.+?)\s* \](?: x (\d+))?", line):
            size, rows, times = table[name]
            table[name] = (size, [*rows, match[1]], int(match[2] or times))
    return table


@pytest.mark.parametrize("depth", FLOPS)
def test_table_1(depth: int) -> None:
    text = reszoo.describe(f"resnet{depth}")
    table = read(text)
    assert re.search(r"conv1 +112x112 +7x7, 64, stride 2\n", text)
    assert re.search(r"conv2_x +56x56 +3x3 max pool, stride 2\n", text)
    assert re.search(r"\n +1x1 +average pool, 1000-d fc, softmax\n", text)
    for name, (size, columns) in TABLE_1.items():
        assert table[name] == (size, *columns[depth]), name
    printed = float(re.search(r"FLOPs +([\d.]+e\d)", text)[1])
    assert abs(printed - FLOPS[depth]) < 0.1e9


def test_cifar_table() -> None:
    """Sec. 4.2: widths 16, 32, 64 at sizes 32, 16, 8; 2n layers each."""
    table = read(reszoo.describe("resnet110"))
    assert table["conv2_x"] == ("32x32", ["3x3, 16", "3x3, 16"], 18)
    assert table["conv3_x"] == ("16x16", ["3x3, 32", "3x3, 32"], 18)
    assert table["conv4_x"] == ("8x8", ["3x3, 64", "3x3, 64"], 18)


def test_the_description_says_what_the_paper_leaves_open() -> None:
    assert "stride in the first 1x1 (v1)" in reszoo.describe("resnet50")
    assert "stride in the 3x3 (v1.5)" in reszoo.describe("resnet50", stride_placement="3x3")
    assert "zero channels: both" in reszoo.describe("resnet20", shortcut_pad="both")


def test_vgg_totals_from_the_paper() -> None:
    """Sec. 3.3: 'VGG-19 … 19.6 billion FLOPs'; plain-34 is 18 % of it."""
    vgg = reszoo.complexity("vgg19")
    assert round(vgg.macs / 1e9, 1) == 19.6
    assert vgg.weighted_layers == 19
    assert round(reszoo.complexity("plain34").macs / vgg.macs, 2) in (0.18, 0.19)


# The generated pages


@pytest.mark.parametrize("page", ["models", "spec"])
def test_pages_are_the_generated_ones(page: str) -> None:
    """If not: python docs/make_tables.py."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text == getattr(make_tables, f"{page}_page")()


def test_models_page_has_every_network_and_every_published_error() -> None:
    lines = make_tables.models_page().splitlines()
    first = [line.split(" | ")[0] for line in lines]
    for name in reszoo.names():
        assert any(re.match(rf"\| `{re.escape(name)}` \| [\d,]+ \|", line) for line in lines), name
    errors = [row for row in make_tables.published() if row.top1_error and row.network]
    assert sum(line.count(" | ") == 7 for line in lines) == len(errors) + 2 * sum(
        cell == "| network" for cell in first
    )


def test_every_field_and_choice_is_explained() -> None:
    texts = make_tables.field_texts()
    assert list(texts) == [field.name for field in dataclasses.fields(ResNetSpec)]
    for name, values in CHOICES.items():
        for value in values:
            assert f'"{value}"' in texts[name], (name, value)


def test_refused_combinations_are_listed() -> None:
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| {rule.combination} | " in page and f" | {rule.reason} |" in page


def test_worked_example_of_a_new_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "NETWORKS", dict(catalog.NETWORKS))
    code = "\n".join(re.findall(r"```python\n(.*?)```", make_tables.EXAMPLE, re.S))
    exec(code, {})  # the page's own lines
    (name,) = set(catalog.NETWORKS) & {"ecaresnext26t_32x4d"}
    counted = reszoo.complexity(name)
    assert round(counted.parameters / 1e6, 2) == 15.41  # as timm states it
    assert set(re.findall(r"# (\d+)", code)) == {str(counted.parameters)}
    assert name in reszoo.names() and "efficient channel attention" in reszoo.describe(name)
    plan = reszoo.plan(name, input_shape=(64, 64, 3))
    assert plan.spec == reszoo.spec("seresnext26t_32x4d", attention="eca", input_shape=(64, 64, 3))
