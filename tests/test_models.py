"""Built Keras models: shapes, saving, portability, initial values, deep graphs."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT

import reszoo


def inputs(model: keras.Model, batch: int = 2, seed: int = 0) -> np.ndarray:
    shape = [n or 37 for n in model.input_shape[1:]]
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def randomise(model: keras.Model, seed: int = 1) -> None:
    """Give every tensor, moving statistics included, a value that shows in the outputs."""
    draw = np.random.default_rng(seed)
    for variable in model.variables:
        value = draw.normal(size=variable.shape) * 0.3
        if variable.name in ("gamma", "moving_variance"):
            value = 0.5 + draw.random(variable.shape)
        variable.assign(value)


def test_the_readme_call() -> None:
    model = reszoo.build("resnet34", shortcut="B")
    assert isinstance(model, keras.Model) and model.name == "resnet34"
    assert model.input_shape == (None, 224, 224, 3) and model.output_shape == (None, 1000)
    assert model.spec == reszoo.spec("resnet34")
    assert model.count_params() == 21_797_672 + 2 * 8512  # torchvision: 8,512 BN channels


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (2, 10)),
        ({"classes": 7}, (2, 7)),
        ({"classes": 0}, (2, 64)),
        ({"include_top": False}, (2, 8, 8, 64)),
        ({"include_top": False, "pooling": "avg"}, (2, 64)),
        ({"include_top": False, "pooling": "max"}, (2, 64)),
        ({"input_shape": (29, 31, 1)}, (2, 10)),
        ({"input_shape": (None, None, 5)}, (2, 10)),
        ({"input_shape": (1, 1, 3), "include_top": False}, (2, 1, 1, 64)),
        ({"input_shape": (33, 18, 3), "include_top": False}, (2, 9, 5, 64)),
    ],
)
def test_output_shapes(arguments: dict, shape: tuple) -> None:
    model = reszoo.build("resnet20", **arguments)
    assert model(inputs(model)).shape == shape


def test_feature_maps() -> None:
    model = reszoo.build("resnet18", features_only=True, input_shape=(64, 96, 3))
    maps = model(inputs(model, 1))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (32, 48, 64), (16, 24, 64), (8, 12, 128), (4, 6, 256), (2, 3, 512),
    ]  # fmt: skip
    some = reszoo.build("resnet20", features_only=True, out_indices=(1, -1))
    assert [x.shape[1:] for x in some.outputs] == [(32, 32, 16), (8, 8, 64)]
    # Layers after the last map are not built.
    short = reszoo.build("resnet20", features_only=True, out_indices=[1])
    assert not [layer for layer in short.layers if layer.name.startswith("stage2")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weigths": "imagenet"}, 'did you mean "weights"'),
        ({"classes": 7, "include_top": False}, "classes sizes the classifier"),
        ({"classes": 7, "features_only": True}, "classes sizes the classifier"),
        ({"classifier_activation": "sigmoid", "include_top": False}, "no effect"),
        ({"dtype": "mixd_float16"}, 'did you mean "mixed_float16"'),
        ({"dtype": "int32"}, 'unknown dtype "int32"'),
        ({"data_format": "NCHW"}, 'unknown data_format "NCHW"'),
        ({"preprocessing": "in_graph"}, "needs weights whose preprocessing is known"),
        ({"include_top": "no"}, "include_top takes True or False"),
        ({"portable": 1}, "portable takes True or False"),
        ({"name": "a/b"}, "name takes text without a slash"),
        ({"input_tensor": keras.Input((8, 8))}, "images of rank 4"),
        ({"input_tensor": keras.Input((8, 8, 3)), "input_shape": (9, 8, 3)}, "drop one"),
        ({"portable": True, "antialias": "blur"}, "needs blur pooling"),
        ({"portable": True, "data_format": "channels_first"}, "cannot pad channels"),
        ({"out_indices": (1,)}, "features_only=True"),
        ({"features_only": True, "out_indices": (9,)}, "out_indices: 9"),
        ({"features_only": True, "out_indices": ()}, "empty"),
        ({"pooling": "avg"}, "include_top=False"),
        ({"pooling": "mean", "include_top": False}, 'unknown pooling "mean"'),
        ({"classifier_activation": "softmx"}, 'did you mean "softmax"'),
        ({"shortct": "A"}, 'did you mean "shortcut"'),
        ({"features_only": True, "out_indices": -1}, "out_indices takes a sequence"),
        ({"features_only": True, "out_indices": (1, 1)}, "twice"),
        ({"features_only": True, "out_indices": (True,)}, "out_indices: True"),
        ({"input_shape": 32}, "input_shape takes a sequence"),
        ({"input_tensor": np.zeros((1, 8, 8, 3))}, "input_tensor takes a Keras tensor"),
        ({"seed": "a"}, "seed takes an integer"),
    ],
)
def test_bad_arguments(arguments: dict, words: str) -> None:
    with pytest.raises(reszoo.SpecError) as caught:
        reszoo.build("resnet20", **arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_logits_and_probabilities() -> None:
    logits = reszoo.build("resnet20", seed=3, classifier_activation=None)
    softmax = reszoo.build("resnet20", seed=3)
    x = inputs(logits)
    np.testing.assert_allclose(keras.ops.softmax(logits(x)), softmax(x), rtol=1e-5, atol=1e-7)


def test_input_tensor_and_mixed_precision() -> None:
    tensor = keras.Input((28, 28, 1))
    model = reszoo.build("resnet20", seed=0, input_tensor=keras.layers.Rescaling(1000.0)(tensor))
    bare = reszoo.build("resnet20", seed=0, input_shape=(28, 28, 1))
    x = inputs(bare)
    np.testing.assert_allclose(model(x), bare(1000 * x), rtol=1e-4, atol=1e-6)
    assert model.spec.input_shape == (28, 28, 1) and model.inputs[0] is tensor
    mixed = reszoo.build("resnet20", dtype="mixed_bfloat16")
    assert mixed(inputs(mixed)).dtype == "float32"
    assert mixed.get_layer("stem_conv").compute_dtype == "bfloat16"


def test_stock_layers_do_not_add_biases_to_channels_first_maps() -> None:
    """Keras 3.15 adds them along rows that have as many pixels as there are filters."""
    with pytest.raises(reszoo.SpecError, match="cannot add biases to maps there"):
        reszoo.build("seresnet18", width=8, portable=True, data_format="channels_first",
                     input_shape=(3, 32, 32))  # fmt: skip


def test_input_tensor_in_channels_first() -> None:
    tensor = keras.Input((3, 16, 24))
    model = reszoo.build("resnet20", depth=8, width=4, seed=0, input_tensor=tensor * 2.0,
                         data_format="channels_first")  # fmt: skip
    last = reszoo.build("resnet20", depth=8, width=4, seed=0, input_shape=(16, 24, 3))
    assert model.spec == last.spec and model.inputs[0] is tensor
    x = inputs(last)
    np.testing.assert_allclose(model(np.moveaxis(x, 3, 1)), last(2 * x), rtol=1e-4, atol=1e-6)


def test_input_tensor_with_preprocessing_in_the_graph(tmp_path) -> None:
    """Pixels through the caller's layers, then the weights' normalisation, then the network."""
    small = {"depth": 8, "width": 4, "input_shape": (16, 16, 3)}
    trained = reszoo.build("resnet20", **small)
    trained.preprocessing = reszoo.Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
    trained.save(tmp_path / "t.keras")
    tensor = keras.Input((16, 32, 3), dtype="uint8")
    half = keras.layers.AveragePooling2D((1, 2))(keras.layers.Rescaling(1.0)(tensor))
    small.pop("input_shape")
    model = reszoo.build(
        "resnet20", tmp_path / "t.keras", input_tensor=half, preprocessing="in_graph", **small
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3)).astype(np.uint8)
    seen = (pixels.reshape(2, 16, 16, 2, 3).mean(3) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(
        model(pixels), trained(seen.astype(np.float32)), rtol=1e-4, atol=1e-6
    )


def test_a_name_that_is_taken_is_named() -> None:
    taken = keras.layers.Conv2D(3, 1, name="stem_conv")(keras.Input((8, 8, 3)))
    with pytest.raises(ValueError, match='"stem_conv" is used 2 times'):
        reszoo.build("resnet20", input_tensor=taken)
    free = keras.layers.Conv2D(3, 1, name="mine")(keras.Input((8, 8, 3), name="input"))
    assert reszoo.build("resnet20", input_tensor=free).stages["stem"][1].name == "mine"


def test_two_networks_on_one_input(tmp_path) -> None:
    """The way out of equal layer names that `input_tensor` documents."""
    fields = {"depth": 8, "width": 4, "classes": 3, "input_shape": (16, 16, 3)}
    a, b = (reszoo.build(name, seed=0, name=f"my_{name}", **fields) for name in
            ("resnet20", "plain20"))  # fmt: skip
    x = keras.Input((16, 16, 3))
    both = keras.Model(x, [a(x), b(x)])
    both.save(tmp_path / "both.keras")
    images = inputs(a)
    for model in (both, keras.saving.load_model(tmp_path / "both.keras")):
        for found, part in zip(model(images), (a, b), strict=True):
            np.testing.assert_allclose(found, part(images), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("portable", [False, True])
def test_losses_of_float16_are_scaled_after_loading_too(portable: bool, tmp_path) -> None:
    model = reszoo.build("resnet20", depth=8, width=4, dtype="mixed_float16", portable=portable)
    model.save(tmp_path / "m.keras")
    for one in (model, reszoo.load(tmp_path / "m.keras")):
        one.compile("sgd", "sparse_categorical_crossentropy")
        assert isinstance(one.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16"])
def test_other_precisions_train_and_infer(dtype: str) -> None:
    model = reszoo.build("resnet20", depth=8, width=4, dtype=dtype, input_shape=(8, 8, 3))
    for training in (False, True):
        assert np.all(np.isfinite(np.asarray(model(inputs(model), training=training), np.float32)))


def test_clones_and_configs() -> None:
    model = reszoo.build("plain20", depth=362, width=2, input_shape=(8, 8, 3))
    clone = keras.models.clone_model(model)  # deeper than Python's limit
    assert clone.count_params() == model.count_params()
    assert clone.spec is None and list(clone.stages) == list(model.stages)
    config = model.get_config()
    for _ in range(2):  # from_config leaves its argument as it was
        assert type(model).from_config(config).spec == model.spec


def test_vgg_without_a_top_takes_any_size() -> None:
    model = reszoo.build("vgg16", input_shape=(None, None, 3), include_top=False)
    # Five poolings of stride 2, as in keras.applications.
    assert model(np.zeros((1, 70, 65, 3), np.float32)).shape == (1, 2, 2, 512)
    assert model.spec is None and list(model.stages) == [
        "stem",
        *(f"stage{n}" for n in range(1, 6)),
    ]


CASES = [
    ("resnet20", {}),
    ("resnet20", {"shortcut_pad": "both", "shortcut_pool": "average", "input_shape": (15, 9, 3)}),
    ("plain20", {}),
    ("resnet20", {"shortcut": "C", "block": "bottleneck", "depth": 20, "width": 4}),
    ("resnet50", {"shortcut": "A", "input_shape": (65, 64, 3), "classes": 5}),
    ("vgg16", {"input_shape": (32, 32, 3), "classes": 4}),
]


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_portable_model_is_equal(name: str, arguments: dict) -> None:
    ours = reszoo.build(name, **arguments)
    stock = reszoo.build(name, portable=True, **arguments)
    randomise(ours)
    stock.set_weights(ours.get_weights())
    assert {type(x).__module__.split(".")[0] for x in stock.layers} == {"keras"}
    x = inputs(ours, 3)
    np.testing.assert_allclose(ours(x), stock(x), rtol=2e-5, atol=1e-6)
    if name != "vgg16":  # dropout draws differ
        np.testing.assert_allclose(ours(x, training=True), stock(x, training=True), rtol=2e-4,
                                   atol=1e-5)  # fmt: skip


LOAD = """
import sys
import numpy as np
{prepare}
model = {load}
x = np.load(sys.argv[2])
np.save(sys.argv[3], model(x))
{check}
"""


def run_loader(tmp_path, model, prepare: str, load: str, check: str = "") -> None:
    """Save, reload in a new process, compare outputs bit by bit."""
    randomise(model)
    model.save(tmp_path / "model.keras")
    x = inputs(model, 3)
    np.save(tmp_path / "x.npy", x)
    code = LOAD.format(prepare=prepare, load=load, check=check)
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.keras", tmp_path / "x.npy",
         tmp_path / "y.npy"], check=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x))


def test_load_in_a_new_process(tmp_path) -> None:
    model = reszoo.build("resnet20", shortcut_pad="both")
    check = "assert model.spec == reszoo.spec('resnet20', shortcut_pad='both')"
    run_loader(tmp_path, model, "import reszoo", "reszoo.load(sys.argv[1])", check)


def test_keras_loads_after_importing_the_layers(tmp_path) -> None:
    model = reszoo.build("resnet50", input_shape=(40, 40, 3), classes=3)
    run_loader(
        tmp_path, model, "import keras, reszoo.layers", "keras.saving.load_model(sys.argv[1])",
        "assert model.spec.block == 'bottleneck'",
    )  # fmt: skip


def test_portable_file_loads_without_reszoo(tmp_path) -> None:
    model = reszoo.build("resnet20", shortcut_pad="both", portable=True)
    hide = "import sys; sys.modules['reszoo'] = None; import keras"  # import reszoo would fail
    run_loader(tmp_path, model, hide, "keras.saving.load_model(sys.argv[1])")


def test_files_of_stock_layers_have_a_spec(tmp_path) -> None:
    """Saved again through reszoo.load they still have it; VGG and models of others have none."""
    model = reszoo.build("resnet20", depth=8, width=4, portable=True)
    for _ in range(2):
        model.save(tmp_path / "m.keras")
        model = reszoo.load(tmp_path / "m.keras")
        assert type(model).__module__.startswith("keras.")
        assert model.spec == reszoo.spec("resnet20", depth=8, width=4)
    vgg = reszoo.build("vgg11", portable=True, include_top=False, input_shape=(32, 32, 3))
    for other in (vgg, keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])):
        other.save(tmp_path / "m.keras")
        assert reszoo.load(tmp_path / "m.keras").spec is None


def test_load_says_what_is_wrong(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file at"):
        reszoo.load(tmp_path / "nothing.keras")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        reszoo.load("a" * 5000 + ".keras")
    (tmp_path / "d.keras").mkdir()
    with pytest.raises(ValueError, match=r"d\.keras is a directory"):
        reszoo.load(tmp_path / "d.keras")
    with pytest.raises(FileNotFoundError, match=r'did you mean "d\.keras"\?'):
        reszoo.load(tmp_path / "dd.keras")
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not a \.keras file"):
        reszoo.load(tmp_path / "weights.h5")


def test_a_damaged_file_is_named(tmp_path) -> None:
    """A flipped bit loads as it was, where no program looks at it, or is a ValueError."""
    path = tmp_path / "m.keras"
    reszoo.build("resnet20", depth=8, width=1, input_shape=(8, 8, 3)).save(path)
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    directory = whole.index(b"PK\1\2")
    places = [*draw.integers(0, len(whole), 12), *draw.integers(directory, len(whole), 12)]
    refused = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.integers(8)
        path.write_bytes(flipped)
        try:
            reszoo.load(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 12
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a Keras model file"):
        reszoo.load(path)


def test_layer_names_are_structural() -> None:
    """Common layers of different networks have the same names: what matching rests on."""
    names = {s: {x.name for x in reszoo.build("resnet20", shortcut=s).layers} for s in "ABC"}
    plain = {x.name for x in reszoo.build("plain20").layers}
    for layers in names.values():
        assert plain <= layers
    assert "stage2_block1_conv1" in plain
    assert names["C"] - plain >= {"stage1_block1_shortcut_conv", "stage1_block1_shortcut_norm"}


def test_shared_tensors_start_equal() -> None:
    nets = [
        reszoo.build("plain20", seed=7),
        reszoo.build("resnet20", seed=7, shortcut="C"),
        reszoo.build("resnet56", seed=7),
    ]
    values = [{v.path: np.asarray(v) for v in net.variables} for net in nets]
    for path, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][path])
        np.testing.assert_array_equal(value, values[2][path])
    other = reszoo.build("plain20", seed=8).get_layer("stem_conv").kernel
    assert not np.array_equal(other, values[0]["stem_conv/kernel"])
    one, two = (values[0][f"stage1_block{b}_conv1/kernel"] for b in (1, 2))
    assert not np.array_equal(one, two)  # equal shapes, different layers


@pytest.mark.parametrize(
    ("initializer", "fan"), [("he_normal", "in"), ("he_normal_fan_out", "out")]
)
def test_he_initialisation(initializer: str, fan: str) -> None:
    """std = sqrt(2 / fan), arXiv 1502.01852 eq. 10 and 14, and not truncated."""
    model = reszoo.build("resnet20", initializer=initializer, seed=0)
    kernel = np.asarray(model.get_layer("stage3_block1_conv1").kernel)  # 3x3, 32 -> 64
    fans = {"in": 9 * 32, "out": 9 * 64}
    assert abs(kernel.std() / np.sqrt(2 / fans[fan]) - 1) < 0.03
    assert np.abs(kernel).max() > 2.5 * kernel.std()  # a truncated normal ends at 2 std
    assert np.all(np.asarray(model.get_layer("head_dense").bias) == 0)


def test_very_deep_nets_build_and_load(tmp_path) -> None:
    """Keras' own limit is near 350 plain layers (Python's recursion limit)."""
    limit = sys.getrecursionlimit()
    model = reszoo.build("plain20", depth=542, width=2, input_shape=(8, 8, 3))
    assert sys.getrecursionlimit() == limit
    path = tmp_path / "deep.keras"
    model.save(path)
    again = reszoo.load(path)
    x = inputs(model)
    np.testing.assert_array_equal(model(x), again(x))
    assert again.spec.depth == 542


@pytest.mark.parametrize(
    "call",
    [
        lambda: reszoo.build("resnet20", allow_noncommercial=1),
        lambda: reszoo.backbone("resnet20", frozen_norm="yes"),
        lambda: reszoo.backbone("resnet20", features_only=True),
        lambda: reszoo.build("resnet20", classes=0, classifier_activation="sigmoid"),
        lambda: reszoo.build("resnet20", dtype="int8_from_float32"),
        lambda: reszoo.build("resnet20", dtype="float8_from_mixed_bfloat16"),
        lambda: reszoo.build("resnet20", input_tensor=keras.Input((32, 32, 3)), input_shape=5),
        lambda: reszoo.build("resnet20", input_tensor=keras.Input((32, 32, 3), dtype="uint8")),
        lambda: reszoo.build("resnet20", input_tensor=keras.Input((32, 32, 3), dtype="bool")),
        lambda: reszoo.build("resnet20", include_top=False, pooling=np.array([1, 2])),
        lambda: reszoo.build("resnet20", data_format=np.array(["a", "b"])),
        lambda: reszoo.build("resnet20", classes=np.array([1, 2]), include_top=False),
        lambda: reszoo.build("resnet20", shortcut=np.array(["A", "B"])),
        lambda: reszoo.backbone("resnet20", out_indices=np.array(3)),
        lambda: reszoo.build("resnet20", depth=8).freeze(["stem"]),  # type: ignore[arg-type]
        lambda: reszoo.names(weights="yes"),  # type: ignore[arg-type]
        lambda: reszoo.load(None),  # type: ignore[arg-type]
        lambda: reszoo.build("resnet20", depths={1: 1, 2: 2, 3: 3}),
        lambda: reszoo.build("resnet20", depth=20, widths=5),
        lambda: reszoo.build("resnet20", norm_epsilon=10**400),
        lambda: reszoo.Preprocessing(scale=10**400),
        lambda: reszoo.export(keras.Sequential(), "nowhere", format=[]),  # type: ignore[arg-type]
        lambda: reszoo.names(5),  # type: ignore[arg-type]
        lambda: reszoo.ResNetSpec.from_dict(5),  # type: ignore[arg-type]
        lambda: reszoo.spec("resnet20").diff(5),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_a_wrong_kind_are_refused_in_one_line(call) -> None:
    with pytest.raises(reszoo.SpecError) as error:
        call()
    assert "\n" not in str(error.value)


def test_switches_of_numpy_are_switches() -> None:
    model = reszoo.build("resnet20", depth=8, include_top=np.False_, portable=np.bool_(False))
    assert model.output_shape == (None, 8, 8, 64)


def test_integers_reach_the_network_through_its_preprocessing_only(tmp_path) -> None:
    small = {"depth": 8, "width": 4}
    trained = reszoo.build("resnet20", input_shape=(8, 8, 3), **small)
    trained.preprocessing = reszoo.Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
    trained.save(tmp_path / "t.keras")
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    model = reszoo.build(
        "resnet20", tmp_path / "t.keras", input_tensor=pixels, preprocessing="in_graph", **small
    )
    batch = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    expected = trained(((batch / 255 - 0.5) / 0.25).astype(np.float32))
    np.testing.assert_allclose(model(batch), expected, rtol=1e-4, atol=1e-6)
    for kind, words in (("uint8", "takes floats, not uint8"), ("string", "not string")):
        with pytest.raises(reszoo.SpecError, match=words):
            reszoo.build("resnet20", input_tensor=keras.Input((8, 8, 3), dtype=kind))


def test_maps_of_vgg_are_its_stages() -> None:
    for index in (5, 7, -6):
        with pytest.raises(reszoo.SpecError, match=r"between -5 and 4 \(the stages\)"):
            reszoo.backbone("vgg11", out_indices=(index,), input_shape=(32, 32, 3))


def test_shapes_in_an_array_are_in_the_order_of_the_format() -> None:
    model = reszoo.build("resnet20", depth=8, width=4, data_format="channels_first",
                         input_shape=np.array([3, 8, 16]))  # fmt: skip
    assert model.spec.input_shape == (8, 16, 3)


def test_labels_may_be_set() -> None:
    model = reszoo.build("resnet20", depth=8)
    model.labels = "cifar10"
    assert model.labels[3] == ("cat", "cat")  # the data set's own order
    model.labels = [("n0", "one")] * 10
    assert model.labels == [("n0", "one")] * 10
    for wrong in (5, ["a"] * 9, [1] * 10, [("a", "b", "c")] * 10, {"a": 1}, "cifar11", "cifar100"):
        with pytest.raises(reszoo.SpecError, match="label"):
            model.labels = wrong
    assert model.labels == [("n0", "one")] * 10
    headless = reszoo.build("resnet20", depth=8, include_top=False)
    headless.labels = ["cat", "dog"]
    assert headless.labels == [("cat", "cat"), ("dog", "dog")]


def test_where_files_go_and_come_from(tmp_path) -> None:
    model = reszoo.build("resnet20", depth=8, seed=np.int64(3))
    same = reszoo.build("resnet20", depth=8, seed=3)
    np.testing.assert_array_equal(model.get_weights()[0], same.get_weights()[0])
    reszoo.export_torch(model, tmp_path / "new" / "x.safetensors")
    assert (tmp_path / "new" / "x.safetensors").is_file()
    for export in (reszoo.export_torch, reszoo.export):
        with pytest.raises(reszoo.ExportError, match="no directory"):
            export(model, tmp_path / "new" / "x.safetensors" / "y.safetensors")
    for name, content in {"byte": b"a", "empty": b"", "pickle": b"\x80\x04N."}.items():
        (tmp_path / f"{name}.keras").write_bytes(content)
        with pytest.raises(ValueError, match="not a Keras model file"):
            reszoo.load(tmp_path / f"{name}.keras")


def test_errors_and_notices_are_in_the_package() -> None:
    from reszoo.exporting import ExportError
    from reszoo.weights.loading import WeightsNotice

    assert reszoo.ExportError is ExportError and reszoo.WeightsNotice is WeightsNotice
    assert {"ExportError", "WeightsNotice"} <= set(reszoo.__all__)
