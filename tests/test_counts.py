"""Parameters, MACs and layers against published figures; plan against built models."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED

import reszoo

HERE = Path(__file__).parent

# shared research table "Golden trainable parameters": closed form, bold ones equal pycls'
# dev/model_complexity.json. Its MACs count the classifier's biases as pycls does.
CLOSED_FORM = """
20    269722   40.55  272474   40.81  283962   42.65
32    464154   68.86  466906   69.12  489594   72.53
44    658586   97.17  661338   97.44  695226  102.42
56    853018  125.49  855770  125.75  900858  132.30
110  1727962  252.89 1730714  253.15 1826202  266.78
1202 19421274 -     19424026  -     20538714  -
18   11515688 -     11689512  -     12043816  -
34   21623848 -     21797672  -     22716840  -
50   22780456 -     25557032  -     40128552  -
101  41772584 -     44549160  -     76981288  -
152  57416232 -     60192808  -    107335720  -
"""
PYCLS_MACS = {("56", "A"): 125_485_706, ("56", "B"): 125_747_850, ("110", "B"): 253_149_834}


def closed_form() -> list[tuple[str, str, int, str]]:
    rows = []
    for line in CLOSED_FORM.split("\n"):
        if not line:
            continue
        depth, *numbers = line.split()
        for position, shortcuts in enumerate((("none", "A"), ("B",), ("C",))):
            for shortcut in shortcuts:
                parameters, macs = numbers[2 * position : 2 * position + 2]
                rows.append((depth, shortcut, int(parameters), macs))
    return rows


@pytest.mark.parametrize(("depth", "shortcut", "parameters", "millions"), closed_form())
def test_closed_form(depth: str, shortcut: str, parameters: int, millions: str) -> None:
    counted = reszoo.complexity(f"resnet{depth}", shortcut=shortcut)
    assert counted.parameters == parameters
    assert counted.weighted_layers == int(depth)
    if millions != "-":
        assert f"{(counted.macs + 10) / 1e6:.2f}" == millions
    if (depth, shortcut) in PYCLS_MACS:
        assert counted.macs + 10 == PYCLS_MACS[depth, shortcut]
    if shortcut == "none":
        assert reszoo.complexity(f"plain{depth}") == counted


def check_published(row: dict[str, str]) -> None:
    overrides = {"shortcut": row["shortcut"]} if row["shortcut"] else {}
    size, classes = int(row["input"]), int(row["classes"])
    counted = reszoo.complexity(
        row["network"], input_shape=(size, size, 3), classes=classes, **overrides
    )
    assert counted.parameters == int(row["parameters"]), row
    assert round(counted.macs / 1e9, 4) == float(row["gmacs"]), row


def test_published_counts() -> None:
    with open(HERE / "published_counts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 40
    for row in rows:
        check_published(row)


def test_every_verified_row_of_the_full_list() -> None:
    path = SHARED / "paper" / "published.csv"
    if not path.exists():
        pytest.skip("the full list of published figures is not beside the repository")
    checked = set()
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            match = re.fullmatch(r"((?:resnet|plain|vgg)\d+)(?:\.\w+)?(?: \(([ABC])\))?",
                                 row["network"])  # fmt: skip
            wanted = ("plain", "plain-cifar", "v1", "v1-cifar", "VGG")
            if not match or row["confidence"] != "verified" or row["family"] not in wanted:
                continue
            if match[1] not in reszoo.names() or not row["params"]:
                continue
            cifar100 = "CIFAR-100" in row["protocol"]
            classes = "100" if cifar100 else "10" if row["input"] == "32" else "1000"
            check_published(
                {
                    "network": match[1],
                    "shortcut": match[2] or "",
                    "input": row["input"],
                    "classes": classes,
                    "parameters": row["params"],
                    "gmacs": row["gmacs"],
                }
            )
            checked.add(match[1])
    assert checked == set(reszoo.names()) - {"plain50", "plain101", "plain152", "plain1202"}


def keras_counts(model) -> tuple[int, int]:
    """Count trainable parameters and MACs from the built Keras layers alone."""
    import keras
    import numpy as np

    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    macs = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            macs += int(np.prod(layer.kernel.shape)) * height * width
        elif isinstance(layer, keras.layers.Dense):
            macs += int(np.prod(layer.kernel.shape))
    return parameters, macs


QUICK = [name for name in reszoo.names() if not name.endswith("1202")]


DEEP = [pytest.param(f"{f}1202", marks=pytest.mark.slow) for f in ("resnet", "plain")]


@pytest.mark.parametrize("name", [*QUICK, *DEEP])
def test_plan_equals_built_model(name: str) -> None:
    counted = reszoo.complexity(name)
    assert keras_counts(reszoo.build(name)) == (counted.parameters, counted.macs)


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("stride_placement", ["1x1", "3x3"])
def test_plan_equals_built_model_odd_sizes(block, shortcut, stride_placement) -> None:
    network = reszoo.spec(
        "resnet20", depth=20, width=4, block=block, shortcut=shortcut,
        stride_placement=stride_placement, input_shape=(29, 18, 2), classes=7,
    ) if block == "bottleneck" else reszoo.spec(
        "resnet20", depth=8, width=4, shortcut=shortcut, input_shape=(29, 18, 2), classes=7
    )  # fmt: skip
    counted = reszoo.complexity(network)
    assert keras_counts(reszoo.build(network)) == (counted.parameters, counted.macs)


def test_projections_stand_where_the_paper_puts_them() -> None:
    """Stage 1 of 18/34 has none under B, stage 1 of bottlenecks has one; A has none; C all."""

    def projections(name: str, shortcut: str) -> list[str]:
        layers = reszoo.plan(name, shortcut=shortcut)
        return [x.name for x in layers if x.projection and x.op == "conv"]

    assert projections("resnet34", "B") == [f"stage{s}_block1_shortcut_conv" for s in (2, 3, 4)]
    assert projections("resnet50", "B") == [f"stage{s}_block1_shortcut_conv" for s in (1, 2, 3, 4)]
    assert projections("resnet50", "A") == []
    assert len(projections("resnet34", "C")) == 16


def test_default_shortcuts() -> None:
    assert {reszoo.spec(f"resnet{d}").shortcut for d in (20, 32, 44, 56, 110, 1202)} == {"A"}
    assert {reszoo.spec(f"resnet{d}").shortcut for d in (18, 34, 50, 101, 152)} == {"B"}
    assert reszoo.spec("resnet20", block="bottleneck", depth=29).shortcut == "B"
    assert reszoo.spec("resnet50").stride_placement == "1x1"


def test_describing_needs_neither_numpy_nor_keras() -> None:
    code = (
        "import sys, reszoo; reszoo.names('resnet*'); reszoo.describe('resnet34'); "
        "reszoo.complexity('vgg16'); reszoo.spec('resnet20', depth=8).to_dict(); "
        "assert not {'numpy', 'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_macs_need_a_size() -> None:
    with pytest.raises(reszoo.SpecError, match="input_shape"):
        reszoo.complexity("resnet50", input_shape=(None, None, 3))
    assert "depend on the input size" in reszoo.describe("resnet50", input_shape=(None, None, 3))
