"""How published files name the tensors of a network: plan -> names, for every known grammar."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from reszoo.errors import SpecError
from reszoo.plans import Layer, Plan

#: Layouts of a tensor in a file: what it takes to make Keras' of it (see conversion.py).
OIHW, OI, OI11, VECTOR, CHANNEL_1D, HWIO, IO, HWIO_HEAD, FLATTENED = (
    "OIHW", "OI", "OI11", "vector", "11K", "HWIO", "IO", "11IO", "flattened",
)  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor of a network, in our words and in a file's.

    Attributes:
        name: in the file.
        layer: name of the plan's layer.
        variable: "kernel", "bias", "gamma", "beta", "moving_mean" or "moving_variance".
        layout: of the file's tensor.
        shape: of the file's tensor.
        optional: not every file has it (the conv biases of keras.applications).
    """

    name: str
    layer: str
    variable: str
    layout: str
    shape: tuple[int, ...]
    optional: bool = False


#: Bookkeeping of torch that no network's output depends on, and what Keras' optimizers keep.
IGNORED = re.compile(r"(.*\.)?num_batches_tracked|n_averaged|optimizer_weights/.*")

Namer = Callable[[Layer, Plan], str | None]


def tensors(plan: Plan, grammar: str) -> list[Tensor]:
    """Return every tensor of a network under a grammar, in the plan's order.

    Args:
        plan: the network.
        grammar: a key of GRAMMARS.

    Raises:
        SpecError: the grammar has no name for one of the network's layers.
    """
    if (plan.spec is None) != (grammar == "torchvision_vgg") and grammar != "reszoo":
        kind = "VGG" if grammar == "torchvision_vgg" else "residual"
        raise SpecError(f"{plan.name}: its tensors are named as those of {kind} networks")
    namer, variables = GRAMMARS[grammar]
    found = []
    for layer in plan:
        if layer.op not in ("conv", "channel_conv", "norm", "dense"):
            continue
        module = namer(layer, plan)
        if module is None:
            raise SpecError(f"{plan.name}: {grammar} files have no name for its {layer.name}")
        found += list(variables(layer, module, plan))
    return found


def recognise(names: Collection[str]) -> str | None:
    """Return the grammar of a file's tensor names, or None."""
    names = [name for name in names if not IGNORED.fullmatch(name)]
    prefix = wrapper(names)
    for grammar, sign in _SIGNS:
        if any(sign.fullmatch(name, len(prefix)) for name in names):
            return grammar
    return None


def wrapper(names: Collection[str]) -> str:
    """Return the prefix that training code put before every name, such as "module.", or ""."""
    first = next(iter(names), "")
    found = re.match(r"((module|model|backbone|_orig_mod)\.)*", first)
    prefix = found[0] if found else ""
    while prefix and not all(name.startswith(prefix) for name in names):
        prefix = prefix[: prefix[:-1].rfind(".") + 1]
    return prefix


def exported(plan: Plan) -> str:
    """Return the torch grammar in which a network is exported."""
    if plan.spec is None:
        return "torchvision_vgg"
    if plan.spec.attention == "se" and plan.spec.stem_pool == "max_ceil":
        return "legacy_senet"
    return "timm_v2" if plan.spec.activation_order == "pre" else "timm_v1"


_SIGNS = tuple(
    (grammar, re.compile(pattern))
    for grammar, pattern in (
        ("reszoo", r"layers/.+/vars/\d+|(stem_conv1?|stage1_conv1)/kernel"),
        ("legacy_senet", r"layer0\.conv1\.weight"),
        ("timm_v2", r"stem\.conv1?\.weight"),
        ("bit_npz", r"resnet/root_block/standardized_conv2d/kernel"),
        ("akamaster", r"linear\.weight"),
        ("keras_applications_v2", r"(.+/)?post_bn/gamma(:0)?"),
        ("keras_applications_v1", r"(.+/)?conv1_bn/gamma(:0)?"),
        ("torchvision_vgg", r"features\.0\.weight"),
        ("timm_v1", r"conv1(\.0)?\.weight"),
    )
)

#: grammar -> (pattern of the first convolution's kernel, name of the classifier's bias).
ENDS = {
    "reszoo": (r"(stem_conv1?|stage1_conv1)/kernel", "head_dense/bias"),
    "torchvision": (r"conv1(\.0)?\.weight", "fc.bias"),
    "timm_v1": (r"conv1(\.0)?\.weight", "fc.bias"),
    "timm_v2": (r"stem\.conv1?\.weight", "head.fc.bias"),
    "legacy_senet": (r"layer0\.conv1\.weight", "last_linear.bias"),
    "akamaster": (r"conv1\.weight", "linear.bias"),
    "torchvision_vgg": (r"features\.0\.weight", "classifier.6.bias"),
    "keras_applications_v1": (r"conv1_conv/kernel", "predictions/bias"),
    "keras_applications_v2": (r"conv1_conv/kernel", "predictions/bias"),
    "bit_npz": (r"resnet/root_block/standardized_conv2d/kernel", "resnet/head/conv2d/bias"),
}

#: grammar -> (kernel of VGG's first fully connected layer, axis of what it reads).
FLATTENED_KERNELS = {
    "reszoo": ("head_fc1/kernel", 0),
    "torchvision_vgg": ("classifier.0.weight", 1),
}


# Parts of our layer names


def _part(layer: Layer) -> str:
    """Return what a block's layer is: "conv1", "norm2", "shortcut_conv", "se_reduce" and so on."""
    return re.sub(r"^(stage\d+_block\d+|stem|head)_", "", layer.name)


def _stem(layer: Layer, plan: Plan) -> tuple[str, bool]:
    """Return a stem layer's part, and whether the stem is deep."""
    return _part(layer), any(x.name == "stem_conv3" for x in plan.stage(0))


# torch


def _timm_v1(layer: Layer, plan: Plan) -> str | None:
    part = _part(layer)
    if layer.stage == 0:
        part, deep = _stem(layer, plan)
        if part.startswith("pool_"):
            blurred = plan.spec is not None and plan.spec.antialias != "none"
            return {"pool_conv": "maxpool.0", "pool_norm": f"maxpool.{1 + blurred}"}[part]
        if not deep:
            return {"conv": "conv1", "norm": "bn1"}[part]
        places = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4, "conv3": 6}
        return "bn1" if part == "norm3" else f"conv1.{places[part]}"
    if layer.stage < 0:
        return {"dense": "fc", "norm": "norm"}.get(part)
    return f"layer{layer.stage}.{layer.block - 1}.{_torch_block(layer, plan, 'se', 'bn')}"


def _torch_block(layer: Layer, plan: Plan, se: str, norm: str) -> str:
    part = _part(layer)
    pooled = plan.spec is not None and plan.spec.shortcut_downsample == "average"
    return {
        "shortcut_conv": f"downsample.{int(pooled)}",
        "shortcut_norm": f"downsample.{1 + pooled}",
        "se_reduce": f"{se}.fc1",
        "se_expand": f"{se}.fc2",
        "eca_conv": f"{se}.conv",
        "gate_conv": "gate",
    }.get(part) or part.replace("norm", norm)


def _legacy_senet(layer: Layer, plan: Plan) -> str | None:
    part = _part(layer)
    if layer.stage == 0:
        part = part if part[-1].isdigit() else f"{part}1"
        return "layer0." + part.replace("norm", "bn")
    if layer.stage < 0:
        return "last_linear"
    return f"layer{layer.stage}.{layer.block - 1}.{_torch_block(layer, plan, 'se_module', 'bn')}"


def _akamaster(layer: Layer, plan: Plan) -> str | None:
    return "linear" if layer.op == "dense" else _timm_v1(layer, plan)


def _timm_v2(layer: Layer, plan: Plan) -> str | None:
    part = _part(layer)
    if layer.stage == 0:
        return f"stem.{part}" if not part.startswith("pool") else None
    if layer.stage < 0:
        return {"dense": "head.fc", "norm": "norm"}.get(part)
    name = {"shortcut_conv": "downsample.conv", "shortcut_norm": "downsample.norm"}.get(
        part
    ) or _torch_block(layer, plan, "se", "norm")
    return f"stages.{layer.stage - 1}.blocks.{layer.block - 1}.{name}"


def _vgg(layer: Layer, plan: Plan) -> str | None:
    if layer.stage < 0:
        return {"fc1": "classifier.0", "fc2": "classifier.3", "dense": "classifier.6"}[_part(layer)]
    # torchvision numbers every module of its feature extractor, ReLUs and pools too.
    return f"features.{[x.name for x in plan if x.op != 'input'].index(layer.name)}"


def _torch_variables(layer: Layer, module: str, plan: Plan) -> Iterator[Tensor]:
    inputs, outputs = layer.in_channels, layer.channels
    if layer.op == "norm":
        pairs = [("weight", "gamma"), ("bias", "beta")]
        if not layer.groups:
            pairs += [("running_mean", "moving_mean"), ("running_var", "moving_variance")]
        for theirs, ours in pairs:
            yield Tensor(f"{module}.{theirs}", layer.name, ours, VECTOR, (outputs,))
        return
    layout, shape = OIHW, (outputs, inputs // layer.groups, layer.kernel, layer.kernel)
    if layer.op == "channel_conv":
        layout, shape = CHANNEL_1D, (1, 1, layer.kernel)  # type: ignore[assignment]
    elif layer.op == "dense":
        layout, shape = OI, (outputs, inputs)  # type: ignore[assignment]
        if module == "head.fc":
            layout, shape = OI11, (outputs, inputs, 1, 1)
        elif module == "classifier.0":
            layout = FLATTENED
    yield Tensor(f"{module}.weight", layer.name, "kernel", layout, shape)
    if layer.bias:
        yield Tensor(f"{module}.bias", layer.name, "bias", VECTOR, (outputs,))


# keras.applications


def _keras_v1(layer: Layer, plan: Plan) -> str | None:
    part = _part(layer)
    if layer.stage == 0:
        return {"conv": "conv1_conv", "norm": "conv1_bn"}.get(part)
    if layer.stage < 0:
        return "predictions"
    kind, number = re.sub(r"\d", "", part), re.sub(r"\D", "", part)
    word = {"conv": "conv", "norm": "bn"}.get(kind.replace("shortcut_", ""))
    number = "0" if kind.startswith("shortcut_") else number
    return word and f"conv{layer.stage + 1}_block{layer.block}_{number}_{word}"


def _keras_v2(layer: Layer, plan: Plan) -> str | None:
    part = _part(layer)
    if layer.stage < 0:
        return {"norm": "post_bn", "dense": "predictions"}.get(part)
    if layer.op == "norm" and layer.stage:  # named after the convolution before it
        number = int(part[-1]) - 1
        tag = f"conv{layer.stage + 1}_block{layer.block}"
        return f"{tag}_{number}_bn" if number else f"{tag}_preact_bn"
    return _keras_v1(layer, plan)


def _keras_variables(layer: Layer, module: str, plan: Plan) -> Iterator[Tensor]:
    if layer.op == "norm":
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            yield Tensor(f"{module}/{name}", layer.name, name, VECTOR, (layer.channels,))
        return
    if layer.op == "dense":
        shape: tuple[int, ...] = (layer.in_channels, layer.channels)
        yield Tensor(f"{module}/kernel", layer.name, "kernel", IO, shape)
    else:
        shape = (layer.kernel, layer.kernel, layer.in_channels, layer.channels)
        yield Tensor(f"{module}/kernel", layer.name, "kernel", HWIO, shape)
    # Its v1 convolutions have biases before their norms; ours do not (see conversion.py).
    if layer.bias or any(x.op == "norm" and x.inputs[0] == layer.name for x in plan):
        yield Tensor(
            f"{module}/bias",
            layer.name,
            "bias",
            VECTOR,
            (layer.channels,),
            optional=not layer.bias,
        )


# BiT's .npz


def _bit(layer: Layer, plan: Plan) -> str | None:
    part = _part(layer)
    if layer.stage == 0:
        return "resnet/root_block/standardized_conv2d"
    if layer.stage < 0:
        return {"dense": "resnet/head/conv2d", "norm": "resnet/group_norm"}.get(part)
    tag = f"resnet/block{layer.stage}/unit{layer.block:02d}"
    if part == "shortcut_conv":
        return f"{tag}/a/proj/standardized_conv2d"
    letter = "abc"[int(part[-1]) - 1]
    return f"{tag}/{letter}/{'standardized_conv2d' if layer.op == 'conv' else 'group_norm'}"


def _bit_variables(layer: Layer, module: str, plan: Plan) -> Iterator[Tensor]:
    if layer.op == "norm":
        for name in ("gamma", "beta"):
            yield Tensor(f"{module}/{name}", layer.name, name, VECTOR, (layer.channels,))
        return
    shape = (layer.kernel, layer.kernel, layer.in_channels, layer.channels)
    layout = HWIO_HEAD if layer.op == "dense" else HWIO
    yield Tensor(f"{module}/kernel", layer.name, "kernel", layout, shape)
    if layer.bias:
        yield Tensor(f"{module}/bias", layer.name, "bias", VECTOR, (layer.channels,))


# Ours


def _own_variables(layer: Layer, module: str, plan: Plan) -> Iterator[Tensor]:
    if layer.op == "norm":
        names = ["gamma", "beta"]
        names += [] if layer.groups else ["moving_mean", "moving_variance"]
        for name in names:
            yield Tensor(f"{module}/{name}", layer.name, name, VECTOR, (layer.channels,))
        return
    inputs, outputs = layer.in_channels, layer.channels
    layout, shape = HWIO, (layer.kernel, layer.kernel, inputs // layer.groups, outputs)
    if layer.op == "dense":
        layout, shape = IO, (inputs, outputs)  # type: ignore[assignment]
    elif layer.op == "channel_conv":
        layout, shape = "K11", (layer.kernel, 1, 1)  # type: ignore[assignment]
    yield Tensor(f"{module}/kernel", layer.name, "kernel", layout, shape)
    if layer.bias:
        yield Tensor(f"{module}/bias", layer.name, "bias", VECTOR, (outputs,))


#: grammar -> (layer -> module's name, module -> its tensors). "torchvision" is a part of "timm_v1".
GRAMMARS: dict[str, tuple[Namer, Callable[[Layer, str, Plan], Iterator[Tensor]]]] = {
    "torchvision": (_timm_v1, _torch_variables),
    "timm_v1": (_timm_v1, _torch_variables),
    "timm_v2": (_timm_v2, _torch_variables),
    "legacy_senet": (_legacy_senet, _torch_variables),
    "akamaster": (_akamaster, _torch_variables),
    "torchvision_vgg": (_vgg, _torch_variables),
    "keras_applications_v1": (_keras_v1, _keras_variables),
    "keras_applications_v2": (_keras_v2, _keras_variables),
    "bit_npz": (_bit, _bit_variables),
    "reszoo": (lambda layer, plan: layer.name, _own_variables),
}
