"""The axes of ResNetSpec: all pairs, every refused combination, random networks built and run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from strategies import AXES, BASES, ENABLERS, random_spec, specs

import reszoo
from reszoo import ResNetSpec, SpecError, costs
from reszoo.rules import RULES, Rule

CIFAR, BOTTLENECK, IMAGENET = BASES.values()
#: One network for each reason to refuse it.
REFUSED: list[dict[str, Any]] = [
    {**CIFAR, "widths": (16, 8)},
    {**CIFAR, "shortcut": "B", "groups": 2},
    {**BOTTLENECK, "width_per_group": 4},
    {**BOTTLENECK, "groups": 8, "first_reduction": 16},
    {**IMAGENET, "stem": "tiered", "stem_width": 12},
    {**CIFAR, "norm": "group", "norm_groups": 3},
    {**CIFAR, "shortcut": "none", "stochastic_depth": 0.5},
    {**CIFAR, "shortcut": "none", "residual_scale": 0.5},
    {**CIFAR, "shortcut": "none", "activation_order": "relu_before_add"},
    {**CIFAR, "zero_gamma": True, "activation_order": "pre"},
    {**CIFAR, "zero_gamma": True, "attention": "se", "attention_relu": True},
    {**IMAGENET, "shortcut_kernel": 2},
    {**IMAGENET, "shortcut_downsample": "average", "shortcut_kernel": 3},
    {**IMAGENET, "output_stride": 3},
    {**IMAGENET, "output_stride": 4, "antialias": "blur"},
    {**CIFAR, "output_stride": 1, "shortcut_pool": "average"},
    {**IMAGENET, "antialias": "blur", "stem_pool": "max_ceil"},
    {**CIFAR, "attention_relu": True},
]


def rule_of(message: str) -> Rule:
    """Return the rule whose reason ends a message."""
    (rule,) = (rule for rule in RULES if message.endswith(f": {rule.reason}"))
    return rule


def refusal(fields: dict[str, Any]) -> Rule | None:
    """Return the rule that refuses fields, or None where their plan can be written."""
    try:
        spec = ResNetSpec(**fields)
    except SpecError as error:
        assert "\n" not in str(error)
        return rule_of(str(error))
    try:
        reszoo.plan(spec)
    except SpecError as error:  # 2x2 averages halve odd maps to another size than shortcuts do
        assert '2x2 averages of antialias "average" round odd sizes down' in str(error)
        assert spec.antialias == "average" and 33 in spec.input_shape
    return None


def pairs() -> Iterator[dict[str, Any]]:
    """Yield the values of every pair of axes."""
    for one, two in itertools.combinations(AXES, 2):
        for values in itertools.product(AXES[one], AXES[two]):
            yield dict(zip((one, two), values, strict=True))


def test_every_field_is_an_axis() -> None:
    assert set(ResNetSpec.__dataclass_fields__) == {"name", *AXES}


@pytest.mark.parametrize("base", BASES)
def test_every_pair_of_axes_builds_or_is_refused_with_the_reason(base: str) -> None:
    """Values that are possible alone are refused together only by a rule that names both axes."""
    alone = {
        (name, value)
        for name, values in AXES.items()
        for value in values
        if refusal({**BASES[base], name: value}) is None
    }
    refused = 0
    for pair in pairs():
        rule = refusal({**BASES[base], **pair})
        if rule is None:
            continue
        refused += 1
        assert set(pair) & set(rule.fields), (pair, rule.combination)
        if set(pair.items()) <= alone:
            assert set(pair) <= set(rule.fields), (pair, rule.combination)
    assert refused


@pytest.mark.parametrize("name", AXES)
def test_every_value_of_an_axis_makes_a_network_of_its_own(name: str) -> None:
    """Somewhere, each value gives other layers than every other value: no option is ignored."""
    written: dict[Any, set[Any]] = {value: set() for value in AXES[name]}
    for base in BASES.values():
        fields = {**base, **ENABLERS.get(name, {})}
        for value in AXES[name]:
            if refusal({**fields, name: value}) is None:
                plan = reszoo.plan(ResNetSpec(**{**fields, name: value}))
                written[value].add((plan.layers, plan.initializer))
    for one, two in itertools.combinations(written, 2):
        assert written[one] ^ written[two], (one, two)


@pytest.mark.parametrize("fields", REFUSED)
def test_refused_combinations_say_why_in_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        ResNetSpec(**fields)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 250
    rule = rule_of(message)
    changed = {name for name in fields if fields[name] not in (CIFAR.get(name),)}
    assert changed & set(rule.fields)


def test_every_rule_is_shown_to_refuse() -> None:
    assert {refusal(fields) for fields in REFUSED} == set(RULES)
    for rule in RULES:
        assert set(rule.fields) <= set(AXES)


# Networks built


def build(spec: ResNetSpec):
    """Build a spec with values everywhere: scales, offsets, biases and statistics too."""
    import numpy as np

    model = reszoo.build(spec, seed=0, classifier_activation=None)
    draw = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(draw.normal(0, 0.3, variable.shape))
        # Of few units all might be off: what they read then hardly matters.
        if variable.path.endswith("_se_reduce/bias"):
            variable.assign(draw.uniform(2, 4, variable.shape))
        if variable.path.endswith("_se_reduce/kernel"):
            variable.assign(0.1 * variable)
    return model


def images(spec: ResNetSpec, count: int = 4):
    import numpy as np

    height, width, channels = spec.input_shape
    shape = (count, height or 32, width or 32, channels)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def check_layers(spec: ResNetSpec, model) -> None:
    """Compare each layer of the plan with the built one: parameters and output shape."""
    plan = reszoo.plan(spec)
    for layer in plan:
        # Channel attention convolves along the channels and is turned back after it.
        end = model.get_layer(layer.name + "_out" * (layer.op == "channel_conv"))
        assert end.output.shape == (None, *layer.size, layer.channels), layer.name
        built = model.get_layer(layer.name)
        counted = sum(int(v.shape.num_elements()) for v in tensors(built))
        assert counted == costs.parameters(layer), layer.name
    total = sum(int(v.shape.num_elements()) for v in tensors(model))
    assert total == sum(map(costs.parameters, plan))


def tensors(layer) -> list[Any]:
    return [variable.value for variable in layer.trainable_variables]


def check_gradients(spec: ResNetSpec, model) -> None:
    """A gradient reaches every trainable tensor, and outputs are finite in both modes."""
    import numpy as np
    import tensorflow as tf

    x = images(spec)
    assert np.all(np.isfinite(model(x)))
    dead = {variable.path for variable in model.trainable_variables}
    # Stochastic depth drops a branch for all four images in one of sixteen draws.
    for _ in range(8 if spec.stochastic_depth else 1):
        with tf.GradientTape() as tape:
            y = model(x, training=True)
            loss = tf.reduce_mean(y * tf.range(1.0, 1.0 + y.shape[-1]))
        assert np.all(np.isfinite(y))
        gradients = tape.gradient(loss, tensors(model))
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            assert gradient is not None, variable.path
            assert np.all(np.isfinite(gradient)), variable.path
            if np.any(gradient):
                dead.discard(variable.path)
        if not dead:
            break
    assert not dead


@pytest.mark.parametrize(
    ("fields", "tensor", "value"),
    [
        ({"attention": "se"}, "stage2_block2_se_reduce/bias", -1e3),
        ({"stochastic_depth": 0.5}, "stage2_block2_norm2/gamma", 0.0),
    ],
)
def test_a_dead_branch_would_be_noticed(fields: dict[str, Any], tensor: str, value: float) -> None:
    import numpy as np

    spec = ResNetSpec(**{**CIFAR, **fields})
    model = build(spec)
    check_gradients(spec, model)
    (variable,) = (v for v in model.trainable_variables if v.path.endswith(tensor))
    variable.assign(np.full(variable.shape, value))
    with pytest.raises(AssertionError, match=r"stage2_block2_(se_reduce|conv2)/kernel"):
        check_gradients(spec, model)


def check_network(spec: ResNetSpec) -> None:
    model = build(spec)
    check_layers(spec, model)
    check_gradients(spec, model)


def covering() -> list[ResNetSpec]:
    """Return random specs that have, together, every value of every axis."""
    missing = {(name, value) for name, values in AXES.items() for value in values}
    chosen = []
    for seed in itertools.count():
        spec = random_spec(seed)
        found = {pair for pair in missing if getattr(spec, pair[0]) == pair[1]}
        if len(found) >= max(1, len(missing) // 4):
            chosen.append(spec)
            missing -= found
        # What no defaults leave open (None) is resolved in every spec.
        if not {pair for pair in missing if pair[1] is not None}:
            break
    return chosen


def test_every_value_of_every_axis_builds_and_runs() -> None:
    for spec in covering():
        model = build(spec)
        check_layers(spec, model)
        y = model(images(spec, 2))
        assert y.shape == (2, spec.classes or spec.block_channels[-1])


# Random networks

BUILDS = settings(max_examples=5)


@settings(max_examples=100)
@given(specs(), specs())
def test_laws_of_specs(one: ResNetSpec, two: ResNetSpec) -> None:
    again = ResNetSpec.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one and hash(again) == hash(one) and again.diff(one) == {}
    assert one.replace() == one and reszoo.spec(one) == one
    assert one.replace(name="other") == one and one.replace(name="other").name == "other"
    assert f"{reszoo.complexity(one, input_shape=(32, 32, 3)).parameters:,}" in reszoo.describe(
        one, input_shape=(32, 32, 3)
    )
    difference = one.diff(two)
    assert (one == two) == (not difference)
    assert two.diff(one) == {name: (b, a) for name, (a, b) in difference.items()}
    # None stands for "as it was", so a spec without output_stride cannot be reached by replace.
    if two.output_stride is not None or one.output_stride is None:
        fields = {name: value for name, value in two.to_dict().items() if value is not None}
        assert one.replace(**fields) == two


@BUILDS
@given(specs())
def test_random_specs_build_as_planned(spec: ResNetSpec) -> None:
    check_network(spec)


@BUILDS
@given(spec=specs())
def test_random_networks_load_as_they_were_saved(spec: ResNetSpec, tmp_path_factory) -> None:
    import numpy as np

    model = build(spec)
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    model.save(path)
    loaded = reszoo.load(path)
    assert loaded.spec == spec
    x = images(spec, 2)
    np.testing.assert_array_equal(loaded(x), model(x))
    for old, new in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def check_many(start: int, count: int) -> None:
    import keras

    every = {random_spec(seed) for seed in range(start, start + count)}
    assert len(every) > 0.95 * count
    for seed in range(start, start + count):
        spec = random_spec(seed)
        try:
            check_network(spec)
        except Exception as error:
            raise AssertionError(f"random_spec({seed}): {spec}") from error
        keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_200_random_specs(part: int) -> None:
    check_many(50 * part, 50)


@pytest.mark.full
@pytest.mark.parametrize("part", range(8))
def test_2000_random_specs(part: int) -> None:
    check_many(1000 + 250 * part, 250)
