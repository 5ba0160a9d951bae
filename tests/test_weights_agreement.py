"""What files say of their network: it must agree with what is asked for, and it may lie."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_networks import (
    SMALL_IMAGES,
    TINY,
    damaged,
    outputs,
    randomized,
    refusal,
    tiny,
    values,
    write,
)

import reszoo
from reszoo import models
from reszoo.errors import SpecError
from reszoo.plans import plan
from reszoo.weights import grammars
from reszoo.weights.loading import WeightsNotice
from reszoo.weights.readers import WeightFileError

pytestmark = pytest.mark.usefixtures("fresh_notices")
LOGITS: dict[str, Any] = {"classifier_activation": None}
QUIET = pytest.mark.filterwarnings("ignore::reszoo.weights.loading.WeightsNotice")
SMALLER = {"depths": (1, 1), "widths": (8, 16), "stem_width": 8, "input_shape": (32, 32, 3)}
BIG = 10**9


def lying(path: Path, target: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """Copy a file of ours with what it says of itself changed: {"spec": …, "meta": …}."""

    def change(said: dict[str, Any]) -> None:
        for part, fields in changes.items():
            said[part].update(fields)

    if path.suffix == ".safetensors":
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        said = json.loads(header["__metadata__"]["reszoo"])
        change(said)
        save_file(load_file(path), target, metadata={"reszoo": json.dumps(said)})
        return target
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.namelist():
            body = old.read(item)
            if item == "config.json":
                config = json.loads(body)
                ours = "spec" in config["config"]
                change(config["config"] if ours else config["build_config"]["reszoo"])
                body = json.dumps(config).encode()
            new.writestr(item, body)
    return target


def never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a model is built")


def tensors(network: str, grammar: str, **fields: Any) -> dict[str, np.ndarray]:
    """Return a network's tensors under the names of a grammar."""
    draw = np.random.default_rng(0)
    return {
        t.name: draw.uniform(0.5, 1.5, t.shape).astype(np.float32)
        for t in grammars.tensors(plan(network, **fields), grammar)
    }


def foreign(path: Path, network: str, grammar: str, **fields: Any) -> Path:
    """Write them as the program that has such names does."""
    named = tensors(network, grammar, **fields)
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, value in named.items():
                file[f"{name.split('/')[0]}/{name}:0"] = value
    elif path.suffix == ".npz":
        np.savez(path, **named)
    else:
        save_file(named, path)
    return path


# Files that lie


LIES: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({"stem_width": BIG, "shortcut": "B"}, {}, SpecError, "stem_width=4 contradicts"),
    ({"depths": [BIG] * 3}, {}, WeightFileError, "depths[0] takes a positive integer of at most"),
    ({"widths": [4] * 10**5, "depths": [1] * 10**5}, {}, WeightFileError, "64 stages"),
    ({"attention": "se", "se_divisor": BIG}, {"attention": "se"}, WeightFileError, "missing: "),
    ({"shortcut_kernel": BIG}, {}, SpecError, "shortcut_kernel=1 contradicts"),
    ({"first_reduction": 2}, {}, SpecError, "first_reduction=1 contradicts"),
    ({"stem": "x" * 10**4}, {}, WeightFileError, "its spec cannot be read"),
]


@pytest.mark.parametrize("kind", ["keras", "portable", "safetensors"])
def test_no_file_makes_build_allocate_what_it_does_not_hold(
    kind: str, trained: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(portable=True) if kind == "portable" else trained
    path = write(model, kind.replace("portable", "keras"), tmp_path)
    monkeypatch.setattr(models, "KerasWriter", never)
    warnings.simplefilter("ignore", WeightsNotice)  # of what the file's spec brings
    for number, (spec, asked, error, words) in enumerate(LIES):
        target = lying(path, tmp_path / f"{number}{path.suffix}", {"spec": spec})
        text = refusal(error, weights=target, **TINY, **asked)
        assert words in text and len(text) < 1000
    for number, preprocessing in enumerate(
        [
            {"test_input_size": 10**6},
            {"input_size": 10**400},
            {"crop_fraction": 1e-9},
            {"test_input_size": 224, "test_crop_fraction": 1e-9},
        ]
    ):
        target = tmp_path / f"meta{number}{path.suffix}"
        lying(path, target, {"meta": {"preprocessing": preprocessing}})
        text = refusal(WeightFileError, weights=target, **TINY)
        assert "metadata cannot be read: " in text and len(text) < 1000


def test_classifiers_that_are_not_all_there(
    trained: keras.Model, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bias alone, or a kernel of few features, would claim many classes at no cost."""
    huge = np.zeros(100_000, np.float32)
    bias = damaged(checkpoint, tmp_path, fc__weight=None, fc__bias=huge)
    path = write(trained, "weights.h5", tmp_path)
    with h5py.File(path, "a") as file:
        dense = file["layers/dense/vars"]
        del dense["0"], dense["1"]
        dense["0"], dense["1"] = huge[None], huge
    monkeypatch.setattr(models, "KerasWriter", never)
    for arguments in ({}, {"classes": 7}):
        text = refusal(WeightFileError, weights=bias, **TINY, **arguments)
        assert "1 missing: fc.weight" in text
        text = refusal(WeightFileError, weights=path, **TINY, **arguments)
        assert "its classifier reads 1 features, not 16" in text


def test_a_stem_that_is_not_all_there(
    trained: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 1x1 kernel of many channels would claim a 3x3 or 7x7 one nine or 49 times as large."""
    path = write(trained, "weights.h5", tmp_path)
    with h5py.File(path, "a") as file:
        stem = file["layers/conv2d/vars"]
        del stem["0"]
        stem["0"] = np.zeros((1, 1, 40_000, 1), np.float32)
    monkeypatch.setattr(models, "KerasWriter", never)
    for arguments in (TINY, {**TINY, "input_shape": (16, 16, 40_000)}):
        text = refusal(WeightFileError, weights=path, **arguments)
        assert "its first kernel is (1, 1, 40000, 1), not (3, 3, 40000, 4)" in text


@pytest.mark.parametrize("kind", ["keras", "safetensors"])
def test_classes_never_come_from_what_a_file_says(kind: str, tmp_path: Path) -> None:
    """They are the caller's, or those of the file's classifier, or the name's."""
    pooled = randomized(tiny(classes=0))
    pooled.labels = ["a", "b"]
    path = write(pooled, kind, tmp_path)
    lie = lying(path, tmp_path / f"lie{path.suffix}", {"spec": {"classes": BIG}})
    for file in (path, lie):
        with pytest.warns(WeightsNotice, match="no classifier: .* classifier of 10 classes"):
            model = tiny(weights=file)
        assert model.output_shape == (None, 10) and model.labels is None
    np.testing.assert_array_equal(outputs(tiny(weights=lie, classes=0)), outputs(pooled))


def test_statements_that_are_none(checkpoint: Path, tmp_path: Path) -> None:
    for number, (text, words) in enumerate(
        [
            ("{", "damaged"),
            ("[" * 10**5, "no JSON"),
            ('{"spec": {"stem": "' + "x" * 2**21 + '"}}', "characters"),
            ('{"spec": {"stem": "cifar"}}', "its spec cannot be read: a spec needs block"),
            ('{"meta": {"labels": [1]}}', "metadata cannot be read"),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        save_file(load_file(checkpoint), path, metadata={"reszoo": text})
        assert words in refusal(WeightFileError, weights=path, **TINY)


def test_archives_of_keras_are_not_compressed(trained: keras.Model, tmp_path: Path) -> None:
    """15 MB of "[]," in 15 KB would cost 400 MB to parse."""
    path = write(trained, "keras", tmp_path)
    parts = {}
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    for member in ("config.json", "model.weights.h5"):
        with zipfile.ZipFile(path, "w") as new:
            for name, body in parts.items():
                way = zipfile.ZIP_DEFLATED if name == member else zipfile.ZIP_STORED
                new.writestr(name, body, way)
        assert f"{member} is compressed" in refusal(WeightFileError, weights=path, **TINY)
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("config.json", b'{"config": [' + b"[]," * (3 * 2**20) + b"0]}")
        new.writestr("model.weights.h5", parts["model.weights.h5"])
    assert "a config.json of 9,437," in refusal(WeightFileError, weights=path, **TINY)


# Files of ours


@QUIET
def test_portable_files_bring_their_network(tmp_path: Path) -> None:
    model = randomized(tiny(portable=True, norm_epsilon=1e-2, shortcut_pad="both", **LOGITS))
    path = write(model, "keras", tmp_path)
    with pytest.warns(WeightsNotice, match="shortcut_pad='both', norm_epsilon=0.01, as these"):
        found = tiny(weights=path, **LOGITS)
    assert found.spec == model.spec
    np.testing.assert_allclose(outputs(found), outputs(model), rtol=1e-5, atol=1e-6)
    text = refusal(SpecError, weights=path, norm_epsilon=1e-5, **TINY)
    assert "norm_epsilon=1e-05 contradicts" in text
    assert "plain and residual nets" in refusal(SpecError, "plain20", weights=path, **TINY)


def test_portable_files_keep_what_belongs_to_the_weights(tmp_path: Path) -> None:
    source = tiny()
    source.labels, source.preprocessing = "cifar10", reszoo.Preprocessing(input_size=32)
    portable = tiny(weights=write(source, "keras", tmp_path), portable=True)
    portable.save(tmp_path / "portable.keras")
    for path in (tmp_path / "portable.keras", tmp_path / "portable.safetensors"):
        if path.suffix == ".safetensors":
            reszoo.export_torch(reszoo.load(tmp_path / "portable.keras"), path)
        found = tiny(weights=path)
        assert found.preprocessing == source.preprocessing and found.labels == source.labels


def test_files_that_say_nothing_are_named(tmp_path: Path) -> None:
    """A view that the user makes of a model has no spec."""
    model = tiny(norm_epsilon=1e-2)
    keras.Model(model.input, model.output).save(tmp_path / "view.keras")
    with pytest.warns(WeightsNotice, match="view.keras does not say .* for the resnet20"):
        tiny(weights=tmp_path / "view.keras")


def test_exported_files_bring_their_network_and_more(tmp_path: Path) -> None:
    model = randomized(reszoo.build("resnet50", **SMALLER, **LOGITS))
    model.preprocessing = reszoo.Preprocessing(mean=(0.5,) * 3, input_size=64)
    model.labels = [f"class {n}" for n in range(1000)]
    path = tmp_path / "model.safetensors"
    with pytest.warns(WeightsNotice, match="names have stride_placement='3x3' and not '1x1'"):
        exported = reszoo.export_torch(model, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsNotice)
        found = reszoo.build("resnet50", weights=path, **SMALLER, **LOGITS)
    assert found.spec == model.spec
    assert found.preprocessing == model.preprocessing and found.labels == model.labels
    np.testing.assert_array_equal(outputs(found), outputs(model))
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    state = library.load_file(path)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        k: v.shape for k, v in exported.items()
    }


# Files of others


SMALL_BIT = {**SMALL_IMAGES, "widths": (32, 32, 32, 32), "stem_width": 32}
CONTRADICTIONS: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    ("a.h5", "resnet50", "keras_applications_v1", SMALL_IMAGES, {
        "activation_order": "norm_after_add", "residual_scale": 0.5, "antialias": "blur",
        "norm_epsilon": 1e-2, "stage_stride": "last", "stem_pool": "max_ceil",
    }),
    ("b.h5", "resnet50v2", "keras_applications_v2", SMALL_IMAGES, {
        "stage_stride": "first", "preact_split": "after", "norm_epsilon": 1e-5,
        "conv_bias": "none", "residual_scale": 0.5,
    }),
    ("c.safetensors", "resnet20", "akamaster", TINY, {
        "activation_order": "relu_before_add", "norm_epsilon": 1e-2, "shortcut_pad": "end",
        "shortcut": "scaled", "residual_scale": 0.5,
    }),
    ("d.npz", "resnetv2_50x1_bit", "bit_npz", SMALL_BIT, {
        "norm_groups": 4, "weight_epsilon": 1e-5, "preact_split": "after", "stem_pool": "max",
    }),
]  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS, ids=lambda case: case[2])
def test_names_of_one_program_say_which_network_it_is(
    case: tuple[str, str, str, dict[str, Any], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, network, grammar, sizes, changes = case
    path = foreign(tmp_path / file, network, grammar, **sizes)
    monkeypatch.setattr(models, "KerasWriter", never)
    for name, value in changes.items():
        text = refusal(SpecError, network, weights=path, **sizes, **{name: value})
        assert text.startswith(f"{name}={value!r} contradicts the weights {file}")
    others = {"resnet50": "resnet50d", "resnet50v2": "preresnet50", "resnet20": "plain20"}
    if network in others:
        text = refusal(SpecError, others[network], weights=path, **sizes)
        assert "contradicts" in text and "leave it out" not in text
    with pytest.raises(AssertionError, match="a model is built"), warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightsNotice)
        reszoo.build(network, weights=path, **sizes)


@pytest.mark.parametrize("order", ["post", "norm_after_add", "relu_before_add"])
def test_no_bias_of_a_file_is_dropped(order: str) -> None:
    """A bias goes into the mean of the norm that reads it, or the file is of another network."""
    network = plan("resnet50", activation_order=order)
    normalized = {x.inputs[0] for x in network if x.op == "norm"}
    named = {
        t.layer for t in grammars.tensors(network, "keras_applications_v1") if t.variable == "bias"
    }
    convs = {x.name for x in network if x.op == "conv"}
    assert named - {"head_dense"} == convs & normalized
    assert (convs - normalized == set()) == (order != "norm_after_add")


@QUIET
def test_where_timms_first_shortcut_leaves(tmp_path: Path) -> None:
    """timm's V2 leaves before the activation, the paper's after it; names of tensors tell."""
    fields = {**SMALLER, **LOGITS}
    timm, paper = (
        randomized(reszoo.build(name, stride_placement="3x3", **fields))
        for name in ("resnetv2_18", "preresnet18")
    )
    bare = damaged(write(timm, "safetensors", tmp_path), tmp_path)
    with pytest.warns(WeightsNotice, match="preact_split='before', as other timm_v2 networks"):
        found = reszoo.build("preresnet18", weights=bare, **fields)
    np.testing.assert_array_equal(outputs(found), outputs(timm))
    bare = damaged(write(paper, "safetensors", tmp_path), tmp_path)
    found = reszoo.build("preresnet18", weights=bare, **fields)
    assert found.spec.preact_split == "after"
    np.testing.assert_array_equal(outputs(found), outputs(paper))


def test_exports_that_compute_something_else_in_timm_say_so() -> None:
    small = {**SMALLER, "preact_split": "after", "stem_pool": "none"}
    model = reszoo.build("resnetv2_18", **small)
    twin = reszoo.build("resnetv2_18", **{**small, "preact_split": "before"})
    with pytest.warns(WeightsNotice, match="preact_split='before' and not 'after'"):
        state = reszoo.export_torch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsNotice)
        other = reszoo.export_torch(twin)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in other.items()}


# Values


def test_integers_are_no_weights(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = load_file(checkpoint)
    bytes_ = {k: (v * 100).astype(np.int8) if v.ndim == 4 else v for k, v in state.items()}
    save_file(bytes_, tmp_path / "int8.safetensors")
    monkeypatch.setattr(models, "KerasWriter", never)
    text = refusal(WeightFileError, weights=tmp_path / "int8.safetensors", **TINY)
    assert "7 of integers (quantised weights are not read): conv1.weight int8" in text


def test_infinities_are_said(checkpoint: Path, tmp_path: Path) -> None:
    state = load_file(checkpoint)
    gamma, mean = state["bn1.weight"], state["layer1.0.bn1.running_mean"]
    path = damaged(
        checkpoint,
        tmp_path,
        bn1__weight=np.full_like(gamma, np.nan),
        layer1__0__bn1__running_mean=np.full_like(mean, np.inf),
    )
    with pytest.warns(WeightsNotice, match="2 tensors hold infinities or NaN: bn1.weight, layer1"):
        tiny(weights=path)


def test_averaged_weights_are_preferred(trained: keras.Model, tmp_path: Path) -> None:
    """As timm does; torchvision's averaged models count what they averaged."""
    torch = pytest.importorskip("torch")
    state = {k: torch.from_numpy(v.copy()) for k, v in reszoo.export_torch(trained).items()}
    last = {name: torch.zeros_like(value) for name, value in state.items()}
    averaged = {"n_averaged": torch.tensor(5)} | {f"module.{k}": v for k, v in state.items()}
    for key, ema, kept in (
        ("state_dict", "state_dict_ema", state),
        ("model", "model_ema", averaged),
    ):
        path = tmp_path / f"{key}.pth"
        torch.save({key: last, ema: kept, "epoch": 3}, path)
        with pytest.warns(WeightsNotice, match=f'several sets .* {ema}; also there: "{key}"'):
            found = tiny(weights=path)
        for name, value in values(found).items():
            np.testing.assert_array_equal(value, values(trained)[name])
