"""Preprocessing against keras.applications, Pillow and the formulas; label sets; the layer."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import reszoo
from reszoo.errors import SpecError
from reszoo.labels import decode, labels
from reszoo.layers.preprocessing import InputPreprocessing
from reszoo.preprocessing import Preprocessing

CAFFE = Preprocessing(scale=1, mean=(103.939, 116.779, 123.68), std=(1, 1, 1), channel_order="bgr")
HALF = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
TORCH = Preprocessing()
MODES = {"caffe": CAFFE, "tf": HALF, "torch": TORCH}


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int64"])
def test_normalize_is_keras_applications(mode, dtype):
    images = pixels(2, 9, 7, 3)
    expected = keras.applications.imagenet_utils.preprocess_input(
        images.astype("float32"), data_format="channels_last", mode=mode
    )
    for given in (images.astype(dtype), tf.constant(images.astype(dtype))):
        got = MODES[mode].normalize(given)
        assert got.dtype == np.float32
        # Values reach 2.6 (151 in Caffe's range): a few units in the last place.
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 if mode != "caffe" else 1e-5)


def test_normalize_one_image_and_leaves_the_input_alone():
    image = pixels(5, 4, 3)
    before = image.copy()
    got = TORCH.normalize(image)
    exact = (image.astype("float64") / 255 - TORCH.mean) / TORCH.std
    np.testing.assert_allclose(got, exact, atol=1e-6)
    floats = image.astype("float32")
    TORCH.normalize(floats)
    assert (image == before).all() and (floats == before).all()


@pytest.mark.parametrize("images", [np.full((1, 2, 2, 3), 0.5), np.full((1, 2, 2, 3), -2.0)])
def test_normalized_images_are_warned_about(images):
    with pytest.warns(UserWarning, match="0..255 are expected"):
        TORCH.normalize(images)


def test_dark_images_are_not_warned_about(recwarn):
    TORCH.normalize(np.zeros((1, 2, 2, 3), "float32"))
    TORCH.normalize(np.ones((1, 2, 2, 3), "uint8"))
    assert not recwarn


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(2, 3), "not (2, 3)"),
        (pixels(1, 4, 4, 1), "not (1, 4, 4, 1)"),
        (tf.zeros((1, 4, 4, 4)), "not (1, 4, 4, 4)"),
        (np.zeros((1, 2, 2, 3), bool), "not bool"),
        (np.full((1, 2, 2, 3), "a"), "not <U1"),
        ("cat.png", "not str"),
        ([pixels(2, 2, 3), pixels(3, 2, 3)], "resize=True"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(images, message):
    with pytest.raises(SpecError) as error:
        TORCH.normalize(images)
    assert message in str(error.value) and "\n" not in str(error.value)


# width, height -> resized width, height; crop's left, top. By hand from the rule that torchvision's
# and timm's evaluation share: shorter side floor(size / fraction), longer side truncated, offsets
# rounded half to even.
GEOMETRY = [
    (500, 375, 224, 0.875, 341, 256, 58, 16),  # 341.33; (341-224)/2 = 58.5 -> 58
    (333, 500, 224, 0.875, 256, 384, 16, 80),  # 384.38
    (301, 301, 288, 0.95, 303, 303, 8, 8),  # 303.16; 7.5 -> 8
    (1000, 97, 160, 0.95, 1731, 168, 786, 4),  # 168.4; 1731.96; 785.5 -> 786
    (40, 60, 224, 0.965, 232, 348, 4, 62),  # 232.12: enlarged
    (224, 224, 224, 1.0, 224, 224, 0, 0),
]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("width", "height", "size", "fraction", "new_width", "new_height", "left", "top"), GEOMETRY
)
def test_resize_is_the_evaluation_transform(
    width, height, size, fraction, new_width, new_height, left, top, interpolation
):
    image = Image.fromarray(pixels(height // 4 + 1, width // 4 + 1, 3)).resize((width, height))
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    expected = np.asarray(image.resize((new_width, new_height), method[interpolation]))
    expected = expected[top : top + size, left : left + size]
    setting = Preprocessing(input_size=size, crop_fraction=fraction, interpolation=interpolation)
    for given in (image, np.asarray(image)):
        got = setting.resize([given])
        assert got.dtype == np.uint8 and got.shape == (1, size, size, 3)
        np.testing.assert_array_equal(got[0], expected)


def test_resize_of_floats_does_not_round_and_stays_in_range():
    image = pixels(30, 40, 3)
    setting = Preprocessing(input_size=64, interpolation="bicubic")
    floats = setting.resize(image.astype("float32"))
    assert floats.dtype == np.float32
    assert floats.min() >= 0 and floats.max() <= 255
    smooth = np.linspace(0, 255, 40)[None, :, None] * np.ones((30, 1, 3))
    np.testing.assert_allclose(
        setting.resize(smooth), setting.resize(np.rint(smooth).astype("uint8")), atol=1.01
    )


def test_resize_takes_batches_single_images_and_other_channel_counts():
    batch = pixels(3, 20, 24, 3)
    setting = Preprocessing(input_size=16)
    together = setting.resize(batch)
    np.testing.assert_array_equal(together, setting.resize(list(batch)))
    np.testing.assert_array_equal(together[1:2], setting.resize(batch[1]))
    np.testing.assert_array_equal(together[1:2], setting.resize(Image.fromarray(batch[1])))
    five = Preprocessing(input_size=16, mean=(0.5,) * 5, std=(0.5,) * 5)
    got = five.resize(np.concatenate([batch, batch[..., :2]], axis=-1))
    np.testing.assert_array_equal(got, np.concatenate([together, together[..., :2]], axis=-1))


def test_pil_modes_become_the_channels_of_the_network():
    gray = Image.fromarray(pixels(20, 20, 1)[..., 0])
    alpha = Image.fromarray(pixels(20, 20, 4), "RGBA")
    setting = Preprocessing(input_size=16)
    got = setting.resize([gray, alpha])
    assert got.shape == (2, 16, 16, 3)
    assert (got[0, ..., 0] == got[0, ..., 2]).all()
    one = Preprocessing(input_size=16, mean=(0.5,), std=(0.5,))
    assert one.resize([gray, alpha]).shape == (2, 16, 16, 1)


def test_evaluation_uses_the_test_size_and_its_crop():
    setting = Preprocessing(
        input_size=16, crop_fraction=0.5, test_input_size=20, test_crop_fraction=1.0
    )
    assert setting.evaluation == (20, 1.0)
    image = pixels(20, 20, 3)
    np.testing.assert_array_equal(setting.resize(image)[0], image)
    small = Preprocessing(input_size=16, crop_fraction=0.5)
    np.testing.assert_array_equal(setting.resize(image, size=16), small.resize(image))
    # timm: without a test crop, the crop of training.
    assert Preprocessing(crop_fraction=0.9, test_input_size=256).evaluation == (256, 0.9)


def test_call_resizes_lists_and_not_batches():
    batch = pixels(2, 20, 20, 3)
    setting = Preprocessing(input_size=16)
    np.testing.assert_array_equal(setting(batch), setting.normalize(batch))
    cut = setting.normalize(setting.resize(batch))
    np.testing.assert_array_equal(setting(list(batch)), cut)
    np.testing.assert_array_equal(setting(batch, resize=True), cut)
    np.testing.assert_array_equal(setting([Image.fromarray(i) for i in batch]), cut)
    np.testing.assert_array_equal(setting(list(batch), resize=False), setting(batch))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        (tf.zeros((1, 8, 8, 3)), "PIL images and numpy arrays"),
        (["cat.png"], "not <U7"),
        ([pixels(4, 6)], "(H, W, 3) here, not (4, 6)"),
        (pixels(4, 6), "not (4, 6)"),
        ([[[1], [2, 3]]], "no array of pixels"),
        ([pixels(0, 6, 3)], "0x6 pixels cannot be resized"),
        ([pixels(3, 8000, 3)], "3x8000 pixels would be resized to 256x682666"),
    ],
)
def test_resize_refuses_in_one_line(images, message):
    with pytest.raises(SpecError) as error:
        TORCH.resize(images)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F", "La"])
def test_pil_images_of_more_than_8_bits_are_refused(mode):
    """Pillow would clip them at 255: white images, and no word."""
    image = Image.new(mode, (20, 20))
    for given, resize in ((image, None), ([image], None), ([image], False)):
        with pytest.raises(SpecError, match=f"mode '{mode}'.*scale them") as error:
            HALF(given, resize=resize)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_pil_images_of_8_bits_become_what_pillow_makes_of_them(mode):
    image = Image.fromarray(pixels(16, 16, 3)).convert("RGBA" if mode == "PA" else "RGB")
    image = image.convert("P" if mode == "PA" else mode).convert(mode)
    setting = Preprocessing(input_size=16, crop_fraction=1.0)
    expected = np.asarray(image.convert("RGB"))[None]
    np.testing.assert_array_equal(setting.resize([image]), expected)
    np.testing.assert_array_equal(setting.pixels([image]), expected)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("resize", [False, True])
def test_values_outside_the_range_are_said_before_resizing(in_graph, resize):
    ways = HALF.pixels if in_graph else HALF
    image = np.full((20, 20, 3), 100)
    for given in (image[None], [image]):
        for value, dtype in ((256, "uint16"), (65535, "uint16"), (-1, "int8"), (-1, "int64")):
            wrong = np.array(given).astype(dtype)
            wrong[0, 3, 4, 1] = value
            wrong = list(wrong) if isinstance(given, list) else wrong
            with pytest.raises(SpecError, match=f"{dtype} hold .*{value}.*0..255"):
                ways(wrong, resize=resize)
        for value, words in ((-1.0, "normalised"), (65535.0, "more than 8 bits"), (np.nan, "nan")):
            wrong = np.array(given, "float32")
            wrong[0, 3, 4, 1] = value
            wrong = list(wrong) if isinstance(given, list) else wrong
            with pytest.warns(UserWarning, match=words) as caught:
                ways(wrong, resize=resize)
            assert len(caught) == 1


def test_integers_of_the_range_are_pixels_whatever_their_type(recwarn):
    image = pixels(20, 24, 3)
    for dtype in ("uint16", "int16", "int64", "float32"):
        wide = image.astype(dtype)
        np.testing.assert_array_equal(HALF.normalize(wide), HALF.normalize(image))
        np.testing.assert_allclose(HALF([wide]), HALF([image]), atol=1.01 / 127.5)
    HALF([np.zeros((20, 20, 3), "float32"), image.astype("float32")])  # dark beside bright
    assert not recwarn


def test_resize_refuses_a_size():
    for size, words in ((0, "size takes a positive integer"), (10**6, "at most 8192 pixels")):
        with pytest.raises(SpecError, match=words):
            TORCH.resize(pixels(4, 4, 3), size=size)


def test_dict_goes_through_json():
    for setting in (CAFFE, HALF, Preprocessing(test_input_size=288, test_crop_fraction=1)):
        assert Preprocessing.from_dict(json.loads(json.dumps(setting.to_dict()))) == setting


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 0.9}, 'did you mean "crop_mode"'),
        ({"interpolation": "bicubik"}, 'did you mean "bicubic"'),
        ({"channel_order": "rbg"}, "Allowed: rgb, bgr"),
        ({"crop_mode": "squash"}, "Allowed: center"),
        ({"mean": [0.5]}, "one entry a channel"),
        ({"mean": 0.5}, "one number a channel"),
        ({"mean": "abc"}, "one number a channel"),
        ({"mean": [0, 0, "0"]}, "finite number"),
        ({"std": [1, 1, 0]}, "positive"),
        ({"std": [1, 1, float("nan")]}, "finite number"),
        ({"scale": True}, "finite number"),
        ({"crop_fraction": 1.1}, "(0, 1]"),
        ({"test_crop_fraction": 0}, "(0, 1]"),
        ({"input_size": 224.0}, "input_size takes a positive integer"),
        ({"input_size": None}, "input_size takes a positive integer"),
        ({"test_input_size": -1}, "test_input_size takes a positive integer"),
        ({"means": [0.5]}, 'did you mean "mean"'),
        ({"scale": np.True_}, "finite number"),
    ],
)
def test_bad_values_are_refused_in_one_line(values, message):
    with pytest.raises(SpecError) as error:
        Preprocessing.from_dict(values)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(SpecError) as same:
        Preprocessing(**values)
    assert str(same.value) == str(error.value)


def test_numbers_of_numpy_are_numbers():
    given = Preprocessing(
        scale=np.float32(0.5), mean=np.full(3, 0.5, "float32"), std=[np.float16(0.25)] * 3,
        crop_fraction=np.float32(0.875), input_size=np.int64(32),
    )  # fmt: skip
    plain = Preprocessing(scale=0.5, mean=(0.5,) * 3, std=(0.25,) * 3, input_size=32)
    assert given == plain and json.dumps(given.to_dict()) == json.dumps(plain.to_dict())
    images = pixels(1, 40, 50, 3)
    np.testing.assert_array_equal(plain(images, resize=np.True_), plain(list(images)))


def test_imagenet_labels_are_the_classes_of_ilsvrc_2012():
    classes = labels("imagenet1k")
    assert len(classes) == len({synset for synset, _ in classes}) == 1000
    # The challenge numbers its classes by ascending synset.
    assert [synset for synset, _ in classes] == sorted(synset for synset, _ in classes)
    assert classes[0] == ("n01440764", "tench")
    known = {
        1: "goldfish",
        207: "golden_retriever",
        281: "tabby",
        388: "giant_panda",
        779: "school_bus",
        895: "warplane",
        954: "banana",
        963: "pizza",
        980: "volcano",
        999: "toilet_tissue",
    }
    assert {index: classes[index][1] for index in known} == known


def test_cifar_labels():
    ten = [name for _, name in labels("cifar10")]
    assert ten[:5] == ["airplane", "automobile", "bird", "cat", "deer"]
    assert ten[5:] == ["dog", "frog", "horse", "ship", "truck"]
    hundred = [name for _, name in labels("cifar100")]
    assert len(set(hundred)) == 100 and hundred == sorted(hundred)
    assert (hundred[0], hundred[19], hundred[99]) == ("apple", "cattle", "worm")
    labels("cifar10").clear()
    assert len(labels("cifar10")) == 10


def test_labels_that_are_not_shipped():
    with pytest.raises(SpecError, match='did you mean "imagenet1k"'):
        labels("imagenet21k")


def test_decode_sorts_and_names():
    scores = np.zeros((2, 1000))
    scores[0, [281, 0, 999]] = 0.5, 0.25, 0.125
    scores[1, 963] = 1
    got = decode(scores, "imagenet1k", top=3)
    assert got[0] == [
        ("n02123045", "tabby", 0.5),
        ("n01440764", "tench", 0.25),
        ("n15075141", "toilet_tissue", 0.125),
    ]
    # Equal scores: in the order of the classes.
    assert [name for _, name, _ in got[1]] == ["pizza", "tench", "goldfish"]


def test_decode_takes_other_labels():
    scores = [[0.1, 0.9], [-3.0, -4.0]]
    assert decode(tf.constant(scores, tf.float64), ["cat", "dog"]) == [
        [("dog", "dog", 0.9), ("cat", "cat", 0.1)],
        [("cat", "cat", -3.0), ("dog", "dog", -4.0)],
    ]
    assert decode(scores, [("n1", "cat"), ("n2", "dog")], top=1) == [
        [("n2", "dog", 0.9)],
        [("n1", "cat", -3.0)],
    ]


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint64", "int8", "int64", "float16", "float64", "bfloat16"]
)
def test_decode_ranks_scores_of_every_type(dtype):
    """Negated as they are, 0 and the smallest integer stay what they are and would come first."""
    values = [0, 3, 1, 2] if dtype[0] == "u" else [-128, 3, 1, 2]
    scores = tf.cast(tf.constant([values]), dtype)
    for given in (scores, np.asarray(scores)):
        got = decode(given, ["least", "most", "third", "second"], top=4)[0]
        assert [name for _, name, _ in got] == ["most", "second", "third", "least"]
        assert [score for _, _, score in got] == [3, 2, 1, values[0]]


@pytest.mark.parametrize(
    ("predictions", "names", "top", "message"),
    [
        (np.zeros((1, 10)), "imagenet1k", 5, "10 classes are predicted, but there are 1000 labels"),
        (np.zeros(10), "cifar10", 5, "not (10,)"),
        (np.zeros((1, 10)), "cifar10", 0, "top takes a positive integer"),
        (np.zeros((1, 10)), "cifar", 5, 'did you mean "cifar10"'),
        (np.zeros((1, 1)), [("a", "b", "c")], 5, "a label is a name"),
        (np.zeros((1, 2)), [1, 2], 5, "a label is a name"),
        (np.zeros((1, 2)), {"a": 1, "b": 2}, 5, "labels takes one name a class"),
        (np.zeros((1, 10), bool), "cifar10", 5, "not bool"),
        (np.zeros((1, 10), complex), "cifar10", 5, "not complex128"),
        ([["a"] * 10], "cifar10", 5, "not <U1"),
        ([[1, 2], [1]], "cifar10", 5, "no predictions (N, classes)"),
        (np.array([[0.0] * 10, [1.0] * 9 + [np.nan]]), "cifar10", 5, "NaN, which has no rank: ima"),
    ],
)
def test_decode_refuses_in_one_line(predictions, names, top, message):
    with pytest.raises(SpecError) as error:
        decode(predictions, names, top=top)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mode", MODES)
def test_layer_is_keras_applications_in_both_data_formats(mode):
    images = pixels(2, 6, 5, 3)
    expected = keras.applications.imagenet_utils.preprocess_input(
        images.astype("float32"), data_format="channels_last", mode=mode
    )
    got = MODES[mode].layer(data_format="channels_last")(images)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-5)
    first = MODES[mode].layer(data_format="channels_first")(np.moveaxis(images, -1, 1))
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("policy", "digits"), [("mixed_float16", 11), ("mixed_bfloat16", 8)])
def test_layer_computes_in_float32_under_mixed_precision(policy, digits):
    # Fractions of a pixel do not survive half precision at 250, but 250.3 - 250 does.
    setting = Preprocessing(scale=1, mean=(250, 250, 250), std=(1, 1, 1))
    layer = setting.layer(dtype=policy)
    got = layer(np.full((1, 1, 1, 3), 250.3, "float32"))
    assert got.dtype == layer.compute_dtype == policy.removeprefix("mixed_")
    np.testing.assert_allclose(np.asarray(got, "float32"), 0.3, rtol=2.0**-digits)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_layer_in_a_model_that_is_saved_and_exported(tmp_path, dtype):
    inputs = keras.Input((None, None, 3), dtype=dtype)
    model = keras.Model(inputs, CAFFE.layer(name="pixels")(inputs))
    images = pixels(2, 6, 5, 3).astype(dtype)
    expected = CAFFE.normalize(images)
    assert model.output_shape == (None, None, None, 3)
    assert not model.weights
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(images), expected, rtol=1e-6)
    assert loaded.get_layer("pixels").get_config() == model.get_layer("pixels").get_config()
    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved")).serve(tf.constant(images))
    np.testing.assert_allclose(served, expected, rtol=1e-6)


@pytest.mark.parametrize("in_graph", [False, True])
def test_networks_check_their_images_alike(in_graph):
    """Whether the network or `preprocess_input` normalises, what is no batch of pixels is said."""
    model = reszoo.build("resnet20", depth=8, width=4)
    model.preprocessing = HALF
    model.update_meta(in_graph=in_graph)
    images = [pixels(4, 5, 3), pixels(5, 4, 3)]
    for given, words in (
        (images, "images of 2 shapes make no batch"),
        (images[0][..., :2], r"not \(4, 5, 2\)"),
        (np.zeros((2, 2, 3), bool), "not bool"),
        ("images", "an array or a tensor, not str"),
        (tf.zeros((4, 5, 2)), r"not \(4, 5, 2\)"),
    ):
        with pytest.raises(SpecError, match=words) as error:
            model.preprocess_input(given, resize=False)
        assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match="resize takes True or False, not 'yes'"):
        model.preprocess_input(images, resize="yes")
    assert model.preprocess_input(images).shape == (2, 224, 224, 3)
    single = Image.fromarray(images[0])
    np.testing.assert_array_equal(
        model.preprocess_input(single), model.preprocess_input(images[:1], resize=np.True_)
    )
    with pytest.warns(UserWarning, match="0..255 are expected"):
        model.preprocess_input(np.full((1, 2, 2, 3), 0.5))
    for batch in (images[:1], images[0][None], tf.constant(images[0][None])):
        got = model.preprocess_input(batch, resize=False)
        expected = images[0][None] if in_graph else images[0][None] / 127.5 - 1
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_config_is_a_copy():
    model = reszoo.build("resnet20", depth=8, width=4, classes=2)
    model.labels, model.preprocessing = ["cat", "dog"], HALF
    meta = model.get_config()["meta"]
    meta["labels"][0][1] = "bird"
    meta["preprocessing"]["mean"].clear()
    meta["maps"].clear()
    assert model.labels == [("cat", "cat"), ("dog", "dog")]
    assert model.preprocessing == HALF and len(model.feature_info) == 4


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({}, (1, 4, 4, 1), "3 channels"),
        ({"data_format": "channels_first"}, (1, 4, 4, 3), "3 channels"),
        ({"data_format": "NCHW"}, None, "channels_last or channels_first"),
        ({"channel_order": "bgrr"}, None, 'did you mean "bgr"'),
        ({"std": (1, 1)}, None, "one entry a channel"),
    ],
)
def test_layer_refuses(arguments, shape, message):
    with pytest.raises(SpecError, match=message):
        InputPreprocessing(**arguments)(keras.Input(batch_shape=shape))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_layer_on_the_torch_backend():
    program = (
        "import numpy as np, keras\n"
        "from reszoo.preprocessing import Preprocessing\n"
        "p = Preprocessing(channel_order='bgr')\n"
        "x = np.arange(24, dtype='uint8').reshape(2, 2, 2, 3)\n"
        "y = keras.ops.convert_to_numpy(p.layer(data_format='channels_last')(x))\n"
        "z = p.normalize(keras.ops.convert_to_tensor(x)).numpy()\n"
        "assert keras.backend.backend() == 'torch'\n"
        "assert abs(y - p.normalize(x)).max() < 1e-6 and abs(z - y).max() < 1e-6\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
