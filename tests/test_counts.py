"""Parameters, MACs and layers against published figures; plan against built models."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SHARED

import reszoo

sys.path.insert(0, str(ROOT / "docs"))
from make_tables import published

HERE = Path(__file__).parent
ROWS = published()

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


def counts(row) -> tuple[int, float]:
    """Return our parameters, with what the source counts beside them, and GMACs of a row."""
    counted = reszoo.complexity(row.network, **row.arguments())
    return counted.parameters + row.extra, round(counted.macs / 1e9, 4)


def test_every_published_count() -> None:
    """All rows with counts, whatever the confidence of their errors."""
    rows = [row for row in ROWS if row.network and row.parameters is not None]
    assert sum(row.confidence == "verified" for row in rows) > 400
    wrong = [
        (row.label, row.source, ours)
        for row in rows
        if (ours := counts(row)) != (row.parameters, row.gmacs or ours[1])
    ]
    assert wrong == []


def test_what_sources_count_beside_ours() -> None:
    """Closed forms of the differences: statistics, biases before a norm, a second stem norm."""
    depths = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    widths = (64, 128, 256, 512)
    seen = set()
    for row in ROWS:
        if match := re.fullmatch(r"keras ResNet(\d+)(V2)?", row.label):
            stages = list(zip(depths[int(match[1])], widths, strict=True))
            if match[2]:  # the norm before each unit, two inside, one at the end; two statistics
                inputs = (64, 256, 512, 1024)
                channels = 2048 + sum(
                    first + (count - 1) * 4 * width + count * 2 * width
                    for first, (count, width) in zip(inputs, stages, strict=True)
                )
                extra = 2 * channels
            else:  # all norms; two statistics, and the bias of the convolution before
                channels = 64 + sum(count * 6 * width + 4 * width for count, width in stages)
                extra = 3 * channels
        elif row.label.startswith("preresnet") and row.source.startswith("osmr") and row.input > 32:
            extra = 2 * 64  # scale and offset of a norm between the stem and the first unit's
        else:
            extra = 0
        assert row.extra == extra, row.label
        seen.add(extra)
    assert len(seen) == 8


def test_rows_without_a_network_say_why() -> None:
    for row in ROWS:
        assert bool(row.network) != bool(row.absent), row.label
        if row.network:
            assert row.network in reszoo.names()
            reszoo.plan(row.network, **row.arguments())


def test_our_copy_agrees_with_the_full_list() -> None:
    """Row by row: no figure was changed, none left out."""
    path = SHARED / "paper" / "published.csv"
    if not path.exists():
        pytest.skip("the full list of published figures is not beside the repository")
    with open(path, newline="") as file:
        full = list(csv.DictReader(file))
    assert len(full) == len(ROWS)
    for theirs, ours in zip(full, ROWS, strict=True):
        same = ("network", "source", "protocol", "confidence", "top1_err", "top5_err")
        assert [theirs[name] for name in same] == [
            ours.label, ours.source, ours.protocol, ours.confidence, ours.top1_error,
            ours.top5_error,
        ]  # fmt: skip
        assert int(theirs["input"]) == ours.input
        assert theirs["params"] == ("" if ours.parameters is None else str(ours.parameters))
        assert (float(theirs["gmacs"]) if theirs["gmacs"] else None) == ours.gmacs
        small = 100 if "CIFAR-100" in theirs["protocol"] else 10
        assert ours.classes == (small if ours.input == 32 else 1000)


def test_counts_of_the_modules_of_timm_and_torchvision() -> None:
    """timm_details.json was read from the built torch modules."""
    details = json.loads((HERE / "parity" / "timm_details.json").read_text())
    names = [name for name in details if name != "about"]
    assert len(names) == 104
    for label in names:
        name, _, stride = label.split("/")[1].partition("@os")
        overrides = {"output_stride": int(stride)} if stride else {}
        if re.fullmatch(r"resnet(50|101|152)", name):
            overrides["stride_placement"] = "3x3"  # theirs are v1.5
        counted = reszoo.complexity(name, **overrides)
        assert counted.parameters == details[label]["parameters"], label
        assert counted.macs == details[label]["macs_224"], label


# What no list has: closed forms


def bottleneck_parameters(depths, widths, groups=1, per_group=64) -> int:
    """Parameters of a v1.5 net of bottlenecks with the 7x7 stem and 1000 classes."""
    total, inputs = 7 * 7 * 3 * 64 + 2 * 64, 64
    for count, width in zip(depths, widths, strict=True):
        inner, out = groups * (width * per_group // 64), 4 * width
        total += inputs * out + 2 * out  # the projection
        for _ in range(count):
            total += inputs * inner + 9 * inner * inner // groups + inner * out
            total += 2 * (2 * inner + out)
            inputs = out
    return total + inputs * 1000 + 1000


def se_parameters(channels, divisor=1) -> int:
    """Parameters of squeeze-and-excitation with ratio 1/16 behind blocks of these channels."""
    total = 0
    for width in channels:
        inner = max(width // 16, divisor)
        total += 2 * width * inner + inner + width
    return total


WIDTHS = (64, 128, 256, 512)
BLOCKS_50 = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


@pytest.mark.parametrize(
    ("name", "depths", "width", "millions"),
    [
        ("resnext26_32x4d", (2, 2, 2, 2), 4, None),
        # The last column: as printed with the weights (facebookresearch/WSL-Images).
        ("resnext101_32x16d", (3, 4, 23, 3), 16, 194),
        ("resnext101_32x32d", (3, 4, 23, 3), 32, 468),
        ("resnext101_32x48d", (3, 4, 23, 3), 48, 829),
    ],
)
def test_resnext_closed_form(name: str, depths, width: int, millions: int | None) -> None:
    parameters = reszoo.complexity(name).parameters
    assert parameters == bottleneck_parameters(depths, WIDTHS, 32, width)
    assert millions is None or abs(parameters / 1e6 - millions) < 1


@pytest.mark.parametrize(
    ("name", "base", "channels", "divisor"),
    [
        ("seresnet50", "resnet50b", BLOCKS_50, 1),
        ("seresnet50t", "resnet50t", BLOCKS_50, 1),
        ("seresnet34", "resnet34", [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3, 8),
        ("seresnet110", "preresnet110", [16] * 18 + [32] * 18 + [64] * 18, 1),
        ("seresnet164", "preresnet164", [64] * 18 + [128] * 18 + [256] * 18, 1),
        ("sewrn16-8", "wrn16-8", [128] * 2 + [256] * 2 + [512] * 2, 1),
    ],
)
def test_squeeze_and_excitation_adds(name: str, base: str, channels, divisor: int) -> None:
    added = reszoo.complexity(name).parameters - reszoo.complexity(base).parameters
    assert added == se_parameters(channels, divisor)


def test_every_name_has_a_count_from_outside() -> None:
    details = json.loads((HERE / "parity" / "timm_details.json").read_text())
    known = {row.network for row in ROWS if row.network and row.parameters is not None}
    known |= {label.split("/")[-1].split("@")[0] for label in details}
    known |= {f"plain{depth}" for depth, *_ in closed_form()}
    known |= {"resnext26_32x4d", "resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d"}
    known |= {"seresnet50t", "seresnet110", "seresnet164", "sewrn16-8"}
    known.add("resnetblur101d")  # as resnetaa101d: both pools have no parameters
    assert set(reszoo.names()) - known == set()
    assert reszoo.complexity("resnetblur101d") == reszoo.complexity("resnetaa101d")


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
        elif isinstance(layer, keras.layers.Conv1D):
            macs += int(np.prod(layer.kernel.shape)) * layer.output.shape[1]
        elif isinstance(layer, keras.layers.Dense):
            macs += int(np.prod(layer.kernel.shape))
    return parameters, macs


QUICK = (
    "resnet18", "plain20", "resnext26_32x4d", "seresnet18", "ecaresnet26t", "resnetv2_18d",
    "vgg11_bn",
)  # fmt: skip
#: More parameters than this are not built: gigabytes.
LARGEST = 500e6


def built_names() -> list[Any]:
    """Return all names but the largest; those not in QUICK run in the slow suite."""
    return [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in reszoo.names()
        if reszoo.complexity(name).parameters <= LARGEST
    ]


def test_the_largest_are_known() -> None:
    every = {getattr(name, "values", (name,))[0] for name in built_names()}
    assert set(reszoo.names()) - every == {"resnext101_32x48d", "resnetv2_152x4_bit"}


@pytest.fixture
def zeros(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start every kernel at zero, which takes a tenth of the time of random numbers."""
    import keras

    from reszoo.graphs import KerasWriter

    monkeypatch.setattr(KerasWriter, "_initializer", lambda self, layer: "zeros")
    yield
    keras.backend.clear_session()


@pytest.mark.parametrize("name", built_names())
def test_plan_equals_built_model(name: str, zeros: None) -> None:
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
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_macs_need_a_size() -> None:
    with pytest.raises(reszoo.SpecError, match="input_shape"):
        reszoo.complexity("resnet50", input_shape=(None, None, 3))
    assert "depend on the input size" in reszoo.describe("resnet50", input_shape=(None, None, 3))
