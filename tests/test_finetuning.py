"""Layer groups, freezing, and what `fit` may and may not move."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest
from families import FAMILIES, close, images, tiny

import reszoo


def values(layers) -> dict[str, np.ndarray]:
    return {v.path: np.asarray(v) for layer in layers for v in layer.variables}


def fit(model: keras.Model, seed: int = 0) -> None:
    """Train one epoch of two steps."""
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    x = images(model, 8, seed) + 0.5
    model.fit(x, np.arange(8) % model.output_shape[-1], batch_size=4, verbose=0)


def moved(before: dict[str, np.ndarray], layers) -> set[str]:
    after = values(layers)
    return {path for path, old in before.items() if not np.array_equal(old, after[path])}


@pytest.mark.parametrize("family", ["basic", "timm v2", "bit"])
def test_a_frozen_backbone_does_not_move_in_fit(family: str) -> None:
    """Neither weights nor moving statistics, the last norm of pre-activation nets included."""
    model = tiny(family)
    model.freeze()
    before = values(model.layers)
    statistics = [path for path in before if "moving" in path]
    assert family == "bit" or len(statistics) >= 10
    fit(model)
    assert moved(before, model.layers) == {"head_dense/kernel", "head_dense/bias"}
    model.unfreeze()
    fit(model)
    assert moved(before, model.layers) == set(before)


def test_groups_freeze_alone() -> None:
    model = tiny("basic")
    model.freeze("stem", "stage1")
    before = {group: values(layers) for group, layers in model.stages.items()}
    fit(model)
    for group in ("stem", "stage1"):
        assert not moved(before[group], model.stages[group])
    for group in ("stage2", "head"):
        assert moved(before[group], model.stages[group]) == set(before[group])
    model.unfreeze("stage1")
    fit(model)
    assert not moved(before["stem"], model.stages["stem"])
    assert moved(before["stage1"], model.stages["stage1"]) == set(before["stage1"])


def test_unknown_groups() -> None:
    model = tiny("basic")
    for call in (model.freeze, model.unfreeze):
        with pytest.raises(reszoo.SpecError, match='"stage9"; did you mean "stage'):
            call("stage9")
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_partition_the_layers(family: str) -> None:
    model = tiny(family)
    groups = model.stages
    expected = ["stem", *(f"stage{n + 1}" for n in range(len(model.spec.depths))), "head"]
    assert list(groups) == expected
    grouped = [layer.name for layers in groups.values() for layer in layers]
    assert sorted(grouped) == sorted(layer.name for layer in model.layers)
    assert {x.name for x in groups["head"] if x.weights} == {"head_dense"}
    norm = [x for x in model.layers if x.name == "head_norm"]
    assert all(x in groups[expected[-2]] for x in norm)
    assert bool(norm) == (model.spec.activation_order == "pre")


def test_frozen_state_is_saved_and_copied(tmp_path) -> None:
    model = tiny("basic")
    model.freeze("stage1")
    model.save(tmp_path / "m.keras")
    x = images(model)
    for again in (
        reszoo.load(tmp_path / "m.keras"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        type(model).from_config(model.get_config()),
    ):
        assert [y.trainable for y in again.layers] == [y.trainable for y in model.layers]
        assert type(again) is type(model) and again is not model
        assert again.spec == model.spec and dict(again.meta) == dict(model.meta)
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(again(x), model(x))


def test_a_new_classifier_on_a_frozen_backbone() -> None:
    """The other way: a backbone inside a model of one's own, called in inference mode."""
    base = tiny("basic", classes=0)
    base.freeze()
    outputs = keras.layers.Dense(3, activation="softmax", name="mine")(base.output)
    model = keras.Model(base.input, outputs)
    before = values(base.layers)
    fit(model)
    assert not moved(before, base.layers)
    nested = keras.Sequential([base, keras.layers.Dense(3, activation="softmax")])
    fit(nested)
    assert not moved(before, base.layers)


def test_frozen_norm_of_a_backbone() -> None:
    """Norms stay as they are, scale and offset too; convolutions learn."""
    base = reszoo.backbone(
        "resnet18", (2,), depths=(1, 1), widths=(8, 16), stem_width=8, input_shape=(32, 32, 3),
        frozen_norm=True,
    )  # fmt: skip
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    model = keras.Model(base.input, keras.layers.Dense(4, activation="softmax")(pooled))
    before = values(base.layers)
    fit(model)
    assert moved(before, base.layers) == {path for path in before if path.endswith("kernel")}


def test_a_frozen_norm_normalises_with_its_statistics() -> None:
    """Training mode gives the outputs of inference mode."""
    model = tiny("bottleneck")
    x = images(model)
    assert np.abs(np.asarray(model(x, training=True)) - np.asarray(model(x))).max() > 1e-3
    model.freeze()
    close(model(x, training=True), model(x))
