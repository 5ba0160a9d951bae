"""Analyses of trained networks, against closed forms and other ways to the same network."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_images
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations import UserError, analyze, cli, records
from ablations.analyses import ANALYSES, analyse, common
from ablations.analyses.calibration import BINS, bins, brier, nll

IMAGES = np.random.default_rng(3).normal(size=(40, 12, 12, 3)).astype(np.float32)


def build(name: str = "resnet20", **overrides: Any) -> Any:
    """Return a net of 14 layers whose every tensor, statistics too, is drawn at random."""
    import reszoo

    fields = {"depth": 14, "width": 4, "input_shape": (12, 12, 3), "classes": 5, **overrides}
    model = reszoo.build(name, seed=1, **fields)
    draw = np.random.default_rng(7)
    for variable in model.weights:
        if "norm" in variable.path:
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
    return model


def outputs(model: Any) -> np.ndarray:
    return model(IMAGES[:8]).numpy()  # predict() would trace each of the many models


def silence(model: Any, norm: str) -> None:
    """Make a normalisation's output zero."""
    for tensor in (model.get_layer(norm).gamma, model.get_layer(norm).beta):
        tensor.assign(np.zeros(tensor.shape))


def copy_block(source: Any, old: str, target: Any, new: str) -> None:
    for layer in source.layers:
        if layer.name.startswith(old + "_") and layer.weights:
            twin = target.get_layer(new + layer.name.removeprefix(old))
            twin.set_weights(layer.get_weights())


# Responses


def test_a_norm_with_the_batch_s_statistics_has_the_std_of_its_gamma() -> None:
    import keras

    from ablations.analyses.responses import measure

    model = build(shortcut="B")
    gammas = {}
    for number, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            gammas[layer.name] = (-1) ** number * (0.3 + 0.1 * number)
            layer.gamma.assign(np.full(layer.gamma.shape, gammas[layer.name]))
            layer.beta.assign(np.zeros(layer.beta.shape))
            layer.momentum = 0.0
    model(IMAGES, training=True)  # with momentum 0 the moving statistics become the batch's
    found = measure(model, [IMAGES])
    assert [r.index for r in found] == list(range(1, 14))
    for response in found:
        assert response.std == pytest.approx(abs(gammas[response.measured]), rel=2e-3)
        assert response.within == pytest.approx(response.std, rel=1e-5)


def test_responses_are_those_of_numpy_over_batches_of_any_size() -> None:
    import keras

    from ablations.analyses.responses import measure

    model = build(shortcut="C")
    names = [f"stage{s}_block{b}_norm{n}" for s in (1, 2, 3) for b in (1, 2) for n in (1, 2)]
    names = ["stem_norm", *names]
    maps = keras.Model(model.input, [model.get_layer(name).output for name in names])
    found = measure(model, [IMAGES[:7], IMAGES[7:]])
    assert [r.measured for r in found] == names
    for response, values in zip(found, maps.predict(IMAGES, verbose=0), strict=True):
        channels = values.astype(np.float64).std(axis=(0, 1, 2))
        assert response.std == pytest.approx(values.astype(np.float64).std(), rel=1e-4)
        assert response.within == pytest.approx(math.sqrt((channels**2).mean()), rel=1e-4)


def test_a_bottleneck_s_layers_are_its_3x3_convolutions_alone() -> None:
    import reszoo
    from ablations.analyses.responses import layers

    model = reszoo.build("resnet50", depths=(1, 2, 1, 1), width=4, input_shape=(32, 32, 3))
    assert [conv.name.rpartition("_")[2] for conv, _ in layers(model)] == ["conv2"] * 5


def test_a_net_that_does_not_normalise_is_measured_after_its_convolutions() -> None:
    import reszoo
    from ablations.analyses.responses import layers

    pairs = layers(reszoo.build("vgg16", input_shape=(32, 32, 3), classes=0))
    assert len(pairs) == 13
    assert all(conv is measured for conv, measured in pairs)


def test_a_net_without_3x3_layers_says_so() -> None:
    import keras

    from ablations.analyses.responses import measure

    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(image), name="one")
    with pytest.raises(UserError, match="one has no 3x3 convolution to measure"):
        measure(model, [])


# Lesions

KINDS = [{"shortcut": "A"}, {"shortcut": "B"}, {"shortcut": "C"}]


@pytest.mark.parametrize("fields", [*KINDS, {"shortcut": "none"}])
def test_removing_nothing_is_the_model_itself(fields: dict[str, Any]) -> None:
    from ablations.analyses.lesion import lesioned

    model = build(**fields)
    assert np.array_equal(outputs(lesioned(model)), outputs(model))


@pytest.mark.parametrize("fields", KINDS)
def test_a_removed_block_is_one_whose_branch_is_zero(fields: dict[str, Any]) -> None:
    from ablations.analyses.lesion import lesioned

    model = build(**fields)
    before = outputs(model)
    for block in ("stage1_block1", "stage2_block1", "stage3_block2"):
        without = outputs(lesioned(model, [block]))
        assert not np.allclose(without, before, atol=1e-4)
        silent = build(**fields)
        silence(silent, f"{block}_norm2")
        assert np.array_equal(without, outputs(silent))
        assert np.array_equal(outputs(lesioned(silent, [block])), without)  # nothing left to lose
    both = outputs(lesioned(model, ["stage2_block1", "stage3_block2"]))
    silence(model, "stage2_block1_norm2")
    silence(model, "stage3_block2_norm2")
    assert np.array_equal(both, outputs(model))


def test_the_bottlenecks_of_an_imagenet_net() -> None:
    from ablations.analyses.lesion import lesioned

    model = build("resnet50", depth=None, depths=(2, 2, 1, 1), input_shape=(32, 32, 3))
    draw = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)
    without = lesioned(model, ["stage2_block1"])(draw).numpy()
    silence(model, "stage2_block1_norm3")
    assert np.array_equal(without, model(draw).numpy())


def test_a_pre_activation_block_s_output_is_the_shortcut_alone() -> None:
    import keras

    from ablations.analyses.lesion import lesioned

    model = build(activation_order="pre")
    without = lesioned(model, ["stage1_block2"])
    silent = build(activation_order="pre")
    kernel = silent.get_layer("stage1_block2_conv2").kernel  # the last layer of the branch
    kernel.assign(np.zeros(kernel.shape))
    assert isinstance(without, keras.Model)
    assert np.array_equal(outputs(without), outputs(silent))


def test_a_skipped_plain_block_is_a_net_that_never_had_it() -> None:
    from ablations.analyses.lesion import lesioned

    model, shorter = build(shortcut="none"), build(shortcut="none", depth=None, depths=(2, 2, 1))
    for layer in shorter.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    assert np.array_equal(outputs(lesioned(model, ["stage3_block2"])), outputs(shorter))


@pytest.mark.parametrize("shortcut", ["A", "C", "none"])
def test_reordered_blocks_are_blocks_with_exchanged_weights(shortcut: str) -> None:
    from ablations.analyses.lesion import lesioned

    fields = {"shortcut": shortcut, "depth": 20}
    model, twin = build(**fields), build(**fields)
    order = [f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2, 3)]
    order[0], order[2] = order[2], order[0]
    order[4], order[5] = order[5], order[4]
    for old, new in (("1_block1", "1_block3"), ("2_block2", "2_block3")):
        copy_block(model, f"stage{old}", twin, f"stage{new}")
        copy_block(model, f"stage{new}", twin, f"stage{old}")
    changed = outputs(lesioned(model, order=order))
    assert np.array_equal(changed, outputs(twin))
    assert not np.allclose(changed, outputs(model), atol=1e-4)
    copy_block(twin, "stage1_block1", twin, "stage1_block3")
    assert np.array_equal(outputs(lesioned(twin, order=[*order[:3], *sorted(order)[3:]])),
                          outputs(twin))  # fmt: skip


def test_lesions_share_the_weights() -> None:
    from ablations.analyses.lesion import lesioned

    model = build()
    without = lesioned(model, ["stage1_block1"])
    model.get_layer("head_dense").bias.assign([9.0, 0, 0, 0, 0])
    assert (outputs(without).argmax(axis=1) == 0).mean() > 0.9


@pytest.mark.parametrize(
    ("remove", "order", "message"),
    [
        (["stage1_blok1"], None, 'unknown block "stage1_blok1"; did you mean "stage1_block1"'),
        (["stage2_block1"], None, "stage2_block1 changes the shape and has no shortcut"),
        ([], ["stage1_block1"], "an order must name each of the 6 blocks once"),
        ([], "swap", "stage2_block1 cannot stand in the place of stage1_block1"),
    ],
)
def test_impossible_lesions_are_named(remove: list[str], order: Any, message: str) -> None:
    from ablations.analyses.graph import Chain
    from ablations.analyses.lesion import lesioned

    model = build(shortcut="none")
    if order == "swap":
        order = Chain(model).blocks
        order[0], order[2] = order[2], order[0]
    with pytest.raises(UserError, match=message) as caught:
        lesioned(model, remove, order)
    assert "\n" not in str(caught.value)


def test_a_network_without_blocks_has_nothing_to_remove() -> None:
    import reszoo
    from ablations.analyses.graph import Chain

    chain = Chain(reszoo.build("vgg16", input_shape=(32, 32, 3), classes=0))
    assert (chain.blocks, chain.removable, chain.interchangeable()) == ([], [], [])


@settings(max_examples=50)
@given(st.permutations(list("abcdefg")))
def test_kendall_is_scipy_s(order: list[str]) -> None:
    from scipy.stats import kendalltau

    from ablations.analyses.lesion import kendall

    expected = kendalltau([ord(name) for name in "abcdefg"], [ord(name) for name in order])
    assert kendall("abcdefg", order) == pytest.approx(expected.statistic)


def test_counted_errors_are_those_of_the_damaged_models() -> None:
    from ablations.analyses.graph import Chain
    from ablations.analyses.lesion import lesioned, plan, wrong

    model = build(shortcut="A")
    labels = np.random.default_rng(0).integers(0, 5, 8).astype(np.int32)
    chain = Chain(model)
    lesions = plan(chain, draws=2)
    kinds = {kind: [x for x in lesions if x.kind == kind] for kind in {x.kind for x in lesions}}
    assert {kind: len(found) for kind, found in kinds.items()} == {
        "none": 1, "delete": 6, "delete_random": 2 * 4, "swap_random": 2 * 1,
    }  # fmt: skip
    assert all(len(set(x.blocks)) == x.k for x in kinds["delete_random"])
    counts = wrong(chain, lesions, [(IMAGES[:5], labels[:5]), (IMAGES[5:8], labels[5:])])
    for index in (0, 1, 4, 9, 14, len(lesions) - 1):
        lesion = lesions[index]
        swapped = lesion.kind == "swap_random"
        damaged = lesioned(
            model, () if swapped else lesion.blocks, lesion.blocks if swapped else None
        )
        assert counts[index] == np.count_nonzero(outputs(damaged).argmax(axis=1) != labels)
    assert len(set(counts.tolist())) > 2  # the lesions do something


@pytest.mark.parametrize("kinds", [("delete", "delete_random", "swap_random"), ("delete",)])
def test_a_figure_of_lesions_has_no_empty_panel(tiny_run: Path, kinds: tuple[str, ...]) -> None:
    from ablations.analyses.lesion import draw

    run = records.load(tiny_run)
    rows = [
        {"arm": "A", "seed": 0, "kind": kind, "k": k, "place": k, "keeps_shape": True, "error": k}
        for kind in ("none", *kinds)
        for k in ((0,) if kind == "none" else (1, 2))
    ]
    figure = draw(run, run.cells, rows, "", 90.0)
    assert len(figure.axes) == len(kinds)
    assert ("No stage has two blocks" in figure.get_supxlabel()) == ("swap_random" not in kinds)


# Calibration


def rows(confidence: float, right: int, count: int, classes: int = 2) -> tuple[Any, Any]:
    """Return `count` predictions of class 0, `right` of which are."""
    p = np.full((count, classes), (1 - confidence) / (classes - 1))
    p[:, 0] = confidence
    return p, np.array([0] * right + [1] * (count - right))


def test_a_calibrated_predictor_has_no_calibration_error() -> None:
    parts = [rows(0.75, 6, 8), rows(0.625, 10, 16), rows(1.0, 5, 5)]
    found = bins(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    assert (found.ece, found.mce) == (0.0, 0.0)
    assert found.counts.sum() == 29


def test_confident_and_wrong_is_an_error_of_one() -> None:
    p, labels = rows(1.0, 0, 10)
    assert (bins(p, labels).ece, bins(p, labels).mce) == (1.0, 1.0)
    assert brier(p, labels) == 2.0
    assert nll(p, labels) == pytest.approx(38 * math.log(10))


def test_errors_are_weighted_by_images() -> None:
    p, labels = (np.concatenate(x) for x in zip(rows(0.9, 10, 10), rows(0.6, 0, 30), strict=True))
    found = bins(p, labels)
    assert found.ece == pytest.approx(10 / 40 * 0.1 + 30 / 40 * 0.6)
    assert found.mce == pytest.approx(0.6)


def test_a_bin_holds_its_upper_edge() -> None:
    p, labels = rows(0.75, 1, 1)
    assert bins(p, labels, 4).counts.tolist() == [0, 0, 1, 0]
    p[0] = 0.75 + 1e-9, 0.25 - 1e-9
    assert bins(p, labels, 4).counts.tolist() == [0, 0, 0, 1]


def test_knowing_nothing_costs_the_logarithm_of_the_classes() -> None:
    p, labels = np.full((6, 8), 1 / 8), np.arange(6)
    assert nll(p, labels) == pytest.approx(math.log(8))
    assert brier(p, labels) == pytest.approx((7 / 8) ** 2 + 7 / 64)


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 2**32 - 1), st.floats(0.1, 8))
def test_the_error_is_at_least_the_overall_gap(n: int, k: int, seed: int, sharp: float) -> None:
    draw = np.random.default_rng(seed)
    p = np.exp(sharp * draw.normal(size=(n, k)))
    p /= p.sum(axis=1, keepdims=True)
    labels = draw.integers(0, k, n)
    found = bins(p, labels)
    gap = abs((p.argmax(axis=1) == labels).mean() - p.max(axis=1).mean())
    assert gap - 1e-12 <= found.ece <= found.mce <= 1
    halves = bins(p[: n // 2 + 1], labels[: n // 2 + 1]).counts
    assert found.counts.sum() == n and (halves <= found.counts).all()
    assert found.counts.shape == (BINS,)


@pytest.mark.parametrize("p", [np.array([[0.5, 0.6]]), np.array([[1.5, -0.5]]), np.ones(3)])
def test_what_is_no_probability_is_refused(p: np.ndarray) -> None:
    with pytest.raises(UserError, match="calibration needs probabilities"):
        bins(p, np.array([0]))


# Runs and the command

Outcome = tuple[int, str, str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `ablations.analyze` in this process; return its exit code, stdout and stderr."""

    def call(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            cli.run(
                analyze.main, doc="", version=lambda: "", command="analyze", positionals=True,
                argv=["analyze", *map(str, arguments)], flag_values=analyze.FLAGS,
            )  # fmt: skip
        return caught.value.code, *capsys.readouterr()  # type: ignore[return-value]

    return call


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_analysis_of_a_real_run(
    copy: Path, images: Path, command: Callable[..., Outcome]
) -> None:
    for name in ANALYSES:
        code, out, err = command(name, copy, "--data_dir", images)
        assert (code, err) == (0, "")
        assert all(arm in out for arm in ("plain", "A", "B"))
        found = copy / "analyses" / name
        for kind, head in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            assert (found / f"{name}.{kind}").read_bytes().startswith(head)
    cells = {(c.arm, str(c.seed)): c.results for c in records.load(copy).done()}
    lesions = table(copy / "analyses/lesion/lesion.csv")
    intact = {(r["arm"], r["seed"]): r for r in lesions if r["kind"] == "none"}
    assert {key: int(row["wrong"]) for key, row in intact.items()} == {
        key: results["test_wrong"] for key, results in cells.items()
    }
    assert {r["blocks"] for r in lesions if r["arm"] == "plain" and r["kind"] == "delete"} == {
        "stage1_block1"
    }
    for row in table(copy / "analyses/calibration/calibration.csv"):
        results = cells[row["arm"], row["seed"]]
        assert float(row["error"]) == pytest.approx(results["test_error"])
        assert float(row["nll"]) == pytest.approx(results["test_loss"], rel=1e-4)
    responses = table(copy / "analyses/responses/responses.csv")
    assert len(responses) == 3 * 2 * 7  # arms, seeds, 3x3 layers of an 8-layer net


def test_some_arms_and_seeds(tiny_run: Path) -> None:
    run = records.load(tiny_run)
    found = analyse(run, "calibration", only=["B"], seeds=[1])
    assert [(r["arm"], r["seed"]) for r in found.tables["calibration"]] == [("B", 1)]
    assert "n = 1 seed an arm (1)" in found.draw().get_supxlabel().replace("\n", " ")


def test_what_does_not_fit_is_one_line(
    tiny_run: Path, images: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    other = write_images(tmp_path / "other", train=3)
    for arguments, message in (
        ([], "give an analysis"),
        (["response", tiny_run], 'unknown analysis "response"; did you mean "responses"'),
        (["lesion", tmp_path], "holds no run"),
        (["lesion", tiny_run, "--only", "plian"], 'unknown arm "plian"; did you mean "plain"'),
        (["lesion", tiny_run, "--seeds", "7"], 'unknown seed "7". Allowed: 0, 1'),
        (["lesion", tiny_run, "--seeds", "x"], "--seeds takes numbers"),
        (["responses", tiny_run, "--data_dir", other], "not the data of this run"),
        (["figures", tiny_run, "--only", "A"], "figures show all finished cells"),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ") and err.count("\n") == 1
        assert message in err


def test_the_images_looked_at_are_the_same_for_all_networks() -> None:
    chosen = common.rows(1000, 100)
    assert np.array_equal(chosen, common.rows(1000, 100))
    assert len(set(chosen.tolist())) == 100 and chosen.max() < 1000
    assert 300 < chosen.mean() < 700  # data sets are often stored class by class
    assert np.array_equal(common.rows(5, 0), np.arange(5))
    assert np.array_equal(common.rows(5, 9), np.arange(5))


def test_networks_of_lower_precision_are_analysed_in_float32(tmp_path: Path) -> None:
    import keras

    from ablations.analyses.lesion import lesioned

    low = build(dtype="mixed_bfloat16")
    low.save(tmp_path / "model.keras")
    cell = records.Cell("A", 0, tmp_path, "done", {})
    loaded = common.load_network(cell)
    full = build()
    full.set_weights(low.get_weights())
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    assert isinstance(loaded, keras.Model)
    assert np.array_equal(outputs(lesioned(loaded)), outputs(full))
