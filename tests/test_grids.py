"""Grids as data: what a file, or the command line, says is what the arms are. No training."""

from __future__ import annotations

import csv
import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

import reszoo
from ablations import grids, matrix
from ablations.grids.fields import fields, parse
from ablations.grids.listing import listing
from ablations.recipes import RECIPES, Recipe
from ablations.records import Arm

PRESETS = "\npresets: {quick: {network: resnet20, recipe: quick, dataset: fashion}}\n"
SHAPES = {
    "fashion": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "imagenet": ((224, 224, 3), 1000),
}
BUILT_IN = [(name, preset) for name in grids.names() for preset in grids.presets(name)]


def write(folder: Path, text: str) -> str:
    path = folder / "g.yaml"
    path.write_text(text + PRESETS)
    return str(path)


def factors(folder: Path, text: str) -> dict[str, dict[str, Any]]:
    return {arm.name: arm.factors for arm in grids.load(write(folder, text)).arms}


def resolved(name: str, preset: str) -> dict[str, Arm]:
    grid = grids.load(name, preset)
    return {arm.name: arm for arm in matrix.arms(grid, *SHAPES[grid.dataset], {})}


# --- the format


def test_product_zip_exclusion_and_named_arms(tmp_path: Path) -> None:
    text = """
factors: {shortcut: [A, B], recipe.l2: [0, 1e-4]}
zip: {block: [basic, bottleneck], depth: [20, 29]}
exclude:
  - {shortcut: A, block: bottleneck}
  - {shortcut: B, recipe.l2: [1e-4]}
arms: {thin: {width: 8, spec.shortcut: C}}
labels: {recipe.l2: {0: free, 1e-4: decay}, block: {basic: "", bottleneck: ""}}
"""
    basic, deep = {"block": "basic", "depth": 20}, {"block": "bottleneck", "depth": 29}
    assert factors(tmp_path, text) == {
        "A-free-20": {"shortcut": "A", "recipe.l2": 0.0, **basic},
        "A-decay-20": {"shortcut": "A", "recipe.l2": 1e-4, **basic},
        "B-free-20": {"shortcut": "B", "recipe.l2": 0.0, **basic},
        "B-free-29": {"shortcut": "B", "recipe.l2": 0.0, **deep},
        "thin": {"width": 8, "shortcut": "C"},
    }


def test_two_zips_are_two_axes(tmp_path: Path) -> None:
    text = "zip: [{depth: [20, 32], width: [8, 4]}, {groups: [1, 2], width_per_group: [64, 40]}]"
    assert list(factors(tmp_path, text)) == ["20-8-1-64", "20-8-2-40", "32-4-1-64", "32-4-2-40"]


def test_a_preset_adds_factors_and_arms_and_replaces_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        "factors: {depth: [20, 32]}\narms: {one: {depth: 8}}\nexclude: {depth: 20}\n"
        "labels: {depth: {44: deep}}\n"
        "presets:\n"
        "  quick: {network: resnet20, recipe: quick, dataset: fashion}\n"
        "  other: {network: resnet20, recipe: quick, dataset: fashion, factors: {depth: [20, 44]},"
        " arms: {two: {shortcut: none}}, exclude: []}\n"
    )
    assert [arm.name for arm in grids.load(str(path)).arms] == ["32", "one"]
    assert [arm.name for arm in grids.load(str(path), "other").arms] == ["20", "deep", "one", "two"]


def levels_of_defaults() -> list[tuple[str, Any]]:
    """Return every field with a value that some network or recipe of ours has."""
    spec = reszoo.spec("resnet50")
    recipe = RECIPES["paper-cifar"]
    found: list[tuple[str, Any]] = []
    for name in fields():
        if name in ("depth", "width"):
            value: Any = {"depth": 50, "width": 32}[name]
        elif name.startswith("recipe."):
            value = getattr(recipe, name[7:])
        else:
            value = getattr(spec, name)
        if value not in (None, ()):
            found.append((name, value))
    return found


@pytest.mark.parametrize(("name", "value"), levels_of_defaults())
def test_every_field_of_spec_and_recipe_is_a_factor(name: str, value: Any, tmp_path: Path) -> None:
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
    dotted = name if name.startswith("recipe.") else f"spec.{name}"
    for written in (name, dotted):
        (only,) = factors(tmp_path, f"factors: {{{written}: [{text}]}}").values()
        assert only == {name: value} and type(only[name]) is type(value)


def test_the_fields_are_those_of_the_dataclasses() -> None:
    mine = {f.name for f in dataclasses.fields(reszoo.ResNetSpec)}
    theirs = {f"recipe.{f.name}" for f in dataclasses.fields(Recipe) if f.name != "name"}
    assert set(fields()) == mine - {"name", "classes", "input_shape"} | theirs | {"depth", "width"}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_is_read_back(number: float) -> None:
    assert parse("recipe.learning_rate", repr(number)) == number


@given(st.integers(0, 10**9), st.sampled_from(["{}", "{:_}", "{}.0", "{:.9e}"]))
def test_whole_numbers_in_any_notation(number: int, form: str) -> None:
    found = parse("recipe.iterations", form.format(number))
    assert found == number and type(found) is int


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("factors: {shorcut: [A]}", 'unknown factor "shorcut"; did you mean "shortcut"'),
        ("factors: {recipe.learning_rat: [1]}", 'did you mean "recipe.learning_rate"'),
        ("factors: {shortcut: [a]}", 'unknown shortcut "a"; did you mean "A"'),
        ("factors: {activation_order: [prae]}", 'did you mean "pre"'),
        (
            "factors: {recipe.iterations: [1.5]}",
            "recipe.iterations takes a whole number, not '1.5'",
        ),
        ("factors: {recipe.flip: [maybe]}", "takes true, false, yes or no, not 'maybe'"),
        (
            "factors: {recipe.drops: [[0.5, 0.75]]}",
            "takes a list of whole numbers, not ['0.5', '0.",
        ),
        ("factors: {recipe.l2: [[1, 2]]}", "recipe.l2 takes a number, not ['1', '2']"),
        ("factors: {output_stride: [x]}", "output_stride takes a whole number, not 'x'"),
        ("factors: {stem: [[cifar]]}", "stem takes text, not ['cifar']"),
        ("factors: {spec.classes: [10]}", "classes follows from the data set"),
        ("factors: {recipe.name: [a, b]}", "recipe.name names a recipe"),
        (
            "title: x\nfactors: {depth: [20]}\ntitle: y",
            'key "title" stands twice in one mapping, in lines 1 and 3',
        ),
        (
            "factors:\n  depth: [20]\n  width: [8]\n  depth: [32]",
            'key "depth" stands twice in one mapping, in lines 2 and 4',
        ),
        ("factors: {depth: [20, 20]}", 'two arms are called "20"'),
        ("arms: {a: {depth: 20}, A: {depth: 32}}", 'arms "a" and "A" name one directory'),
        ("arms: {\uac00: {depth: 20}, \u1100\u1161: {depth: 32}}", "name one directory"),  # NFC
        ("arms: {-x: {depth: 20}}", 'arm "-x" names a directory: use letters, digits and ._+=-, a'),
        ("arms: {=x: {depth: 20}}", 'arm "=x" names a directory'),
        ("arms: {+x: {depth: 20}}", 'arm "+x" names a directory'),
        ("arms: {'@x': {depth: 20}}", 'arm "@x" names a directory'),
        ("arms: {_x: {depth: 20}}", 'arm "_x" names a directory'),
        (f"arms: {{{'é' * 51}: {{depth: 20}}}}", "names a directory: at most 100 bytes, not 102"),
        (
            "factors: {recipe.l2: &many [" + ", ".join(map(str, range(99))) + "], "
            "recipe.momentum: *many, recipe.warmup: *many, recipe.learning_rate: *many}",
            "96,059,601 combinations of levels are over 1,000",
        ),
        ("zip: {depth: [20, 32], width: [8]}", "equally many levels, not depth 2, width 1"),
        ("zip: {depht: [20]}", 'did you mean "depth"'),
        ("zip: x", "each entry of zip is a mapping"),
        ("factors: {depth: [20]}\nzip: {depth: [32]}", "depth stands in factors and zip"),
        ("factors: {depth: [20, 32]}\nexclude: {depht: 20}", 'did you mean "depth"'),
        ("factors: {depth: [20, 32]}\nexclude: {depth: 23}", 'exclude: depth: unknown level "23"'),
        ("factors: {depth: [20]}\nexclude: {depth: 20}", "exclude leaves no arm"),
        ("title: x", "no arms"),
        ("arms: {a: {shorcut: A}}", 'did you mean "shortcut"'),
        ("arms: {a: [A]}", "arms: a is a mapping"),
        ("arms: {a: {shortcut: A}}\nvaries: shortcut", "varies is a list of fields"),
        ("arms: {a: {shortcut: A}}\nvaries: [shorcut]", 'did you mean "shortcut"'),
        ("factors: {depth: [20]}\nexceptions: {2: {}}", 'exceptions: unknown arm "2"; did you'),
        ("factors: {depth: [20]}\nexceptions: {20: {width: 8}}", "only fields of the recipe"),
        ("factors: {depth: [20]}\nmatch: mac", 'unknown match "mac"; did you mean "macs"'),
        ("factors: {depth: [20]}\ntolerance: 2", "tolerance is a fraction from 0 to 1"),
        ("factors: {width: [8]}\nmatch: macs", "solves for the width, and arms vary width"),
        ("factors: {depth: [20]}\nmacth: macs", 'unknown key "macth"; did you mean "match"'),
    ],
)
def test_mistakes_name_the_nearest_valid_thing(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(grids.GridError) as caught:
        grids.load(write(tmp_path, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_nested_too_deep_is_refused_in_one_line(tmp_path: Path) -> None:
    for opened, closed in (("[", "]"), ("{a: ", "}")):
        text = f"title: {opened * 800}x{closed * 800}"
        with pytest.raises(grids.GridError, match=r"g\.yaml: .* nested too deep") as caught:
            grids.load(write(tmp_path, text))
        assert "\n" not in str(caught.value)


def test_negative_levels_make_names_that_no_shell_takes_for_options(tmp_path: Path) -> None:
    text = """
factors: {shortcut: [A], gate_bias: [-6, 1], shortcut_scale: [-0.5]}
labels: {shortcut: {A: ""}}
"""
    assert list(factors(tmp_path, text)) == ["gate_bias=-6.0--0.5", "1.0--0.5"]


def test_arms_that_train_the_same_are_refused(tmp_path: Path) -> None:
    """Whatever their files call it: depth 20 is what resnet20 has, and 8 is width 8."""
    for one, other in (
        ("{}", "{depth: 20}"),
        ("{shortcut: A}", "{shortcut: A}"),
        ("{width: 8}", "{widths: [8, 16, 32]}"),
        ("{recipe.l2: 0}", "{recipe.l2: 0.0}"),
    ):
        text = f"varies: [depth, recipe.l2]\narms: {{ref: {one}, x: {{depth: 8}}, same: {other}}}"
        grid = grids.load(write(tmp_path, text))
        with pytest.raises(grids.GridError, match='arms "ref" and "same" are the same network'):
            matrix.arms(grid, (28, 28, 1), 10, {})


def test_one_arm_is_a_grid_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    (only,) = grids.from_axes("resnet20", ["depth=8"]).arms
    (left,) = grids.load(write(tmp_path, "factors: {depth: [8, 20]}\nexclude: {depth: 20}")).arms
    assert only == left


@pytest.mark.parametrize(
    "seeds", [{"seeds": 25_001}, {"seeds": 10**30}, {"seed_list": [0] * 25_001}]
)
def test_a_grid_has_an_end(seeds: dict[str, Any]) -> None:
    from ablations.plan import plan

    with pytest.raises(ValueError, match=r"at most 100,000 cells, not [\d,]+ seeds of 4 arms"):
        plan("shortcuts", **seeds)


def test_a_factor_cannot_be_overruled(tmp_path: Path) -> None:
    """--epochs on a grid that varies the length would give arms names that are not true."""
    for factor in ("recipe.epochs: [1, 2]", "recipe.iterations: [10, 20]"):
        grid = grids.load(write(tmp_path, f"factors: {{{factor}}}"))
        with pytest.raises(grids.GridError, match="is a factor of grid g"):
            matrix.arms(grid, (28, 28, 1), 10, {"epochs": 5})


# --- the command line


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ablations.run", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_axes_are_the_same_grid_as_a_file(tmp_path: Path) -> None:
    text = "factors: {shortcut: [A, B, C], depth: [20, 32], widths: [[4, 8, 16]]}"
    axes = ["shortcut=A,B,C", "depth=20,32", "widths=4x8x16"]
    made = grids.from_axes("resnet20", axes)
    assert made.arms == grids.load(write(tmp_path, text)).arms
    assert (made.network, made.recipe, made.dataset) == ("resnet20", "quick", "fashion")
    assert made.baseline == "A-20-4x8x16"
    paper = grids.from_axes("resnet50", ["stride_placement=1x1,3x3"], "paper")
    assert (paper.recipe, paper.dataset) == ("paper-imagenet", "imagenet")


def test_axes_on_the_command_line(tmp_path: Path) -> None:
    found = command(
        "--axis", "shortcut=A,B,C", "--axis", "depth=20,32", "--base", "resnet20", "--dry_run",
        cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = {line.split()[0]: line.split() for line in found.stdout.splitlines()[2:8]}
    assert list(rows) == ["A-20", "A-32", "B-20", "B-32", "C-20", "C-32"]
    # Parameters of the 6n+2 nets of width 16 with option A on one-channel images: Table 6's counts
    # (0.27 and 0.46 M) less the stem's two other input channels.
    assert rows["A-20"][1] == f"{269_722 - 2 * 9 * 16:,}"
    assert rows["A-32"][1] == f"{464_154 - 2 * 9 * 16:,}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--axis", "shortcut=A,B"], "--axis needs the network"),
        (["--base", "resnet20"], "give --axis FIELD=A,B too"),
        (["--axis", "shortcut", "--base", "resnet20"], "write FIELD=LEVEL,LEVEL"),
        (["--axis", "shorcut=A", "--base", "resnet20"], 'did you mean "shortcut"'),
        (["--axis", "depth=20,20", "--base", "resnet20"], "two arms"),
        (["--axis", "depth=20", "--axis", "depth=32", "--base", "resnet20"], "given twice"),
        (["--axis", "depth=20", "--base", "resnet2O"], 'did you mean "resnet20"'),
        (["--axis", "depth=20", "--base", "resnet20", "--grid", "depth"], "one of the three"),
        (["--net", "resnet20", "--grid", "depth"], "one of the three"),
    ],
)
def test_bad_axes(arguments: list[str], words: str) -> None:
    from ablations.errors import UserError
    from ablations.plan import plan
    from ablations.run import FLAGS, _options

    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    FLAGS(["run", *arguments])
    with pytest.raises((UserError, reszoo.SpecError)) as caught:
        plan(**_options())
    assert words in str(caught.value)


def test_the_list_is_a_table(tmp_path: Path) -> None:
    found = command("--list", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    head, *rows = found.stdout.splitlines()
    assert head.split() == [
        "grid", "preset", "arms", "baseline", "reproduces", "expected", "cost",
    ]  # fmt: skip
    assert [tuple(row.split()[:2]) for row in rows] == BUILT_IN
    for row, (name, preset) in zip(rows, BUILT_IN, strict=True):
        grid = grids.load(name, preset)
        start = head.index("baseline")
        assert row[start:].split()[0] == grid.baseline
        assert row[head.index("cost") :].strip() == grid.cost
    for width in (80, 119, 120, 200):
        plain = listing(width, True).splitlines()
        assert max(len(_without_colour(line)) for line in plain) <= width
        words = _without_colour(" ".join(plain))
        assert all(name in words for name in grids.names())


def _without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- the built-in grids


def test_what_is_built_in() -> None:
    wanted = {
        "shortcuts", "depth", "degradation", "block", "stride_placement", "activation_order",
        "identity_shortcuts", "width_depth", "cardinality", "initialisation", "option_a",
    }  # fmt: skip
    assert set(grids.names()) == wanted
    assert all("quick" in grids.presets(name) for name in wanted)


@pytest.mark.parametrize(("name", "preset"), BUILT_IN)
def test_each_says_what_it_is(name: str, preset: str) -> None:
    grid = grids.load(name, preset)
    assert grid.reproduces and grid.expect and grid.title
    assert any(hardware in grid.cost for hardware in ("EPYC", "H100"))
    arms = resolved(name, preset)
    assert len(arms) >= 2 and grid.baseline in arms
    networks = {str(sorted(arm.spec.items())) + str(arm.recipe) for arm in arms.values()}
    assert len(networks) == len(arms)  # no two arms are the same
    if preset == "quick":  # minutes on a laptop: 3 epochs of nets below 25 M multiply-accumulates
        assert grid.dataset == "fashion" and max(arm.macs for arm in arms.values()) < 25e6


@pytest.mark.parametrize(("name", "preset"), BUILT_IN)
def test_what_is_expected_is_of_this_preset(name: str, preset: str) -> None:
    """Arms, depths and lengths that the sentence names are those of the preset."""
    grid, arms = grids.load(name, preset), resolved(name, preset)
    words = set(re.findall(r"[\w.+=-]*\w", grid.expect))
    every = {arm for other in grids.presets(name) for arm in resolved(name, other)}
    numbered = {word for word in words if re.fullmatch(r"[a-z]\w*-\d+", word)}
    for word in numbered | words & every:
        assert any(arm == word or arm.startswith(f"{word}-") for arm in arms)
    depths = {arm.weighted_layers for arm in arms.values()}
    assert set(map(int, re.findall(r"(\d+) layers", grid.expect))) <= depths
    if "three epochs" in grid.expect:
        assert {arm.recipe["epochs"] for arm in arms.values()} == {3}
    assert preset == "quick" or "short training" not in grid.expect


def rows(name: str) -> list[dict[str, str]]:
    path = SHARED / "paper" / name
    if not path.exists():
        pytest.skip(f"the table {name} of published numbers is not here")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def published(source: str) -> dict[str, float]:
    return {
        row["network"]: float(row["top1_err"])
        for row in rows("published.csv")
        if row["source"] == source
    }


def test_numbers_of_1603_05027_table_1() -> None:
    """Typed in from the paper: CIFAR-10, ResNet-110, median of five; "fail" has no number."""
    assert grids.load("identity_shortcuts", "paper").paper["values"] == {
        "identity": 6.61, "scaled-0.5-0.5": 12.35, "exclusive-gate-6": 8.70,
        "exclusive-gate-7": 9.81, "shortcut-gate-0": 12.86, "shortcut-gate-6": 6.91,
        "conv1x1": 12.22,
    }  # fmt: skip


def test_numbers_of_1603_05027_table_2() -> None:
    orders = {
        "original": (6.61, 5.93), "bn-after-add": (8.17, 6.50), "relu-before-add": (7.84, 6.14),
        "relu-only-pre": (6.71, 5.91), "full-pre": (6.37, 5.46),
    }  # fmt: skip
    wanted = {
        f"{k}-{d}": v for k, both in orders.items() for d, v in zip((110, 164), both, strict=True)
    }
    assert grids.load("activation_order", "paper").paper["values"] == wanted


def test_numbers_of_1611_05431_table_3() -> None:
    found = published("arXiv 1611.05431 Table 3")
    names = {"1x-64d": "resnet50", "2x-40d": "resnext50_2x40d", "4x-24d": "resnext50_4x24d",
             "8x-14d": "resnext50_8x14d", "32x-4d": "resnext50_32x4d"}  # fmt: skip
    values = grids.load("cardinality", "paper-imagenet").paper["values"]
    assert values == {arm: found[name] for arm, name in names.items()}
    gmacs = {row["network"]: float(row["gmacs"]) for row in rows("published.csv")
             if row["source"] == "arXiv 1611.05431 Table 3"}  # fmt: skip
    for arm, network in names.items():
        made = resolved("cardinality", "paper-imagenet")[arm]
        assert made.macs / 1e9 == pytest.approx(gmacs[network], abs=5e-5)


def test_networks_of_1603_05027() -> None:
    """Counts that are published, and those that follow from them in closed form."""
    arms = resolved("identity_shortcuts", "paper")
    plain = 1_727_962  # published for 110 layers with option A
    # A gate is a 1x1 convolution with bias in each of 18 blocks a stage.
    gate = sum(18 * (c * c + c) for c in (16, 32, 64))
    gated = [name for name in arms if "gate" in name]
    assert len(gated) == 5 and arms["conv1x1"].parameters == 1_826_202
    for name, arm in arms.items():
        assert arm.weighted_layers == 110
        if name != "conv1x1":
            assert arm.parameters == plain + gate * (name in gated)
    assert arms["exclusive-gate-7"].spec["gate_bias"] == -7.0
    assert arms["scaled-0.5-0.5"].spec["residual_scale"] == 0.5
    assert arms["scaled-0.5-1"].spec["residual_scale"] == 1.0
    orders = resolved("activation_order", "paper")
    counts = {"original-110": 1_727_962, "full-pre-110": 1_727_962, "original-164": 1_704_154,
              "full-pre-164": 1_703_258}  # fmt: skip
    assert {name: orders[name].parameters for name in counts} == counts
    for arm in (*arms.values(), *orders.values()):
        # "We warm up ... with a learning rate of 0.01 for 400 iterations": one window of 400.
        recipe = Recipe.from_dict(arm.recipe)
        assert (recipe.warmup_rate, recipe.warmup_window) == (0.01, 400)
        assert recipe.warmup_error > 100


def test_tags_are_refused_where_nothing_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(
        "factors: {shortcut: [B, C]}\n"
        "presets: {quick: {network: resnet50.a1_in1k, recipe: quick, dataset: fashion}}\n"
    )
    for make in (
        lambda: grids.single("resnet50.a1_in1k"),
        lambda: grids.from_axes("resnet50.a1_in1k", ["shortcut=B,C"]),
        lambda: grids.load(str(tmp_path / "g.yaml"), "quick"),
    ):
        with pytest.raises(grids.GridError, match=r"train from initial values; give resnet50$"):
            make()


def test_a_level_has_one_label(tmp_path: Path) -> None:
    text = "factors: {recipe.l2: [0, 1e-4]}\nlabels: {recipe.l2: {0: free, 0.0: none}}\n"
    with pytest.raises(grids.GridError, match=r"the level 0\.0 stands twice"):
        factors(tmp_path, text)
