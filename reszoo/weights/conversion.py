"""Tensors of a file -> variables of a built model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from reszoo.plans import Plan
from reszoo.weights import grammars
from reszoo.weights.grammars import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
_FLOATS = ("float64", "float32", "float16", "bfloat16")


class TensorFile(Protocol):
    """What is needed of an open file: declared shapes, and one tensor at a time."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> declared shape."""

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Name -> stored type: "float32", "int8" and so on."""

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """Return one tensor, refused unless its declared shape is `shape`."""


class Found(NamedTuple):
    """A tensor of a file: its name there, its declared shape and stored type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


#: A file's tensors under their names as the grammars spell them.
Names = Mapping[str, Found]


def canonical(file: TensorFile, grammar: str) -> Names:
    """Return a file's tensors under the names that `grammar` uses.

    Strips what training code and Keras put before and behind: "module.", the groups of an HDF5
    file, ":0"; an optimizer's variables are left out.
    """
    names = [name for name in file.shapes if not grammars.IGNORED.fullmatch(name)]
    found: dict[str, Found] = {}
    prefix = grammars.wrapper(names)
    for name in names:
        short = name[len(prefix) :]
        if grammar.startswith("keras_applications"):
            short = "/".join(short.split("/")[-2:]).removesuffix(":0")
        # Of two tensors with one short name the second keeps its own, which no network has.
        known = Found(name, tuple(file.shapes[name]), file.dtypes[name])
        found[name if short in found else short] = known
    return found


def flattened(names: Names, grammar: str) -> int | None:
    """Return what the file's first fully connected layer reads (VGG), or None without one."""
    name, axis = grammars.FLATTENED_KERNELS.get(grammar, ("", 0))
    found = names.get(name)
    return found.shape[axis] if found and len(found.shape) == 2 else None


def head_classes(names: Names, grammar: str) -> int | None:
    """Return the outputs of the file's classifier, or None without one."""
    entry = names.get(grammars.ENDS[grammar][1])
    return entry.shape[0] if entry and len(entry.shape) == 1 else None


def input_channels(names: Names, grammar: str) -> int | None:
    """Return the channels that the file's first convolution reads; None if it has none."""
    first = re.compile(grammars.ENDS[grammar][0])
    for short, tensor in names.items():
        if first.fullmatch(short) and len(tensor.shape) == 4:
            return tensor.shape[1 if short.endswith(".weight") else 2]
    return None


def mismatch(plan: Plan, names: Names, wanted: list[Tensor], present: Collection[str]) -> str:
    """Compare a file's tensors with a network's.

    Args:
        plan: the network.
        names: what is in the file.
        wanted: the network's tensors.
        present: layers that the model has: tensors of others may be missing, and of a head that
            is not built may have any shape.

    Returns:
        One line that counts the tensors that are missing, left over, of other shapes or no floats
        and names the first few, or "".
    """
    expected = {tensor.name: tensor for tensor in wanted}
    missing = [
        tensor.name
        for tensor in wanted
        if tensor.name not in names and not tensor.optional and tensor.layer in present
    ]
    extra = [name for name in names if name not in expected]
    unlike = [
        f"{name} {_text(names[name].shape)} (wanted {_text(tensor.shape)})"
        for name, tensor in expected.items()
        if name in names and names[name].shape != tensor.shape
        if tensor.layer in present or not tensor.layer.startswith("head_fc")
    ]
    whole = [
        f"{name} {names[name].dtype}"
        for name in expected
        if name in names and names[name].dtype not in _FLOATS
    ]
    problems = [
        f"{len(items)} {what}: {listed(items)}"
        for what, items in (
            ("missing", missing),
            ("of another shape", unlike),
            ("not of this network", extra),
            ("of integers (quantised weights are not read)", whole),
        )
        if items
    ]
    return f"is not {plan.name}: tensors " + "; ".join(problems) if problems else ""


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return the first names of a foreign file for a one-line message."""
    cut = [name[:100].encode("unicode_escape").decode() for name in names[:most]]
    return ", ".join(cut) + ", …" * (len(names) > most)


def converted(file: TensorFile, names: Names, tensor: Tensor, plan: Plan) -> Array:
    """Return one tensor in Keras' layout."""
    value = file.read(*names[tensor.name][:2])
    layout = tensor.layout
    if layout == grammars.OIHW:
        return value.transpose(2, 3, 1, 0)
    if layout == grammars.OI:
        return value.T
    if layout == grammars.OI11:
        return value[:, :, 0, 0].T
    if layout == grammars.CHANNEL_1D:
        return value.transpose(2, 0, 1)
    if layout == grammars.HWIO_HEAD:
        return value[0, 0]
    if layout == grammars.FLATTENED:
        before = plan[plan[tensor.layer].inputs[0]]  # the flattening of (H, W, C)
        height, width = plan[before.inputs[0]].size
        channels = plan[before.inputs[0]].channels
        value = value.reshape(-1, channels, height, width)  # type: ignore[arg-type]
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    return value


def exported(value: Array, tensor: Tensor, plan: Plan) -> Array:
    """Return a Keras variable in the layout of a torch file: `converted` undone."""
    layout = tensor.layout
    if layout == grammars.OIHW:
        value = value.transpose(3, 2, 0, 1)
    elif layout in (grammars.OI, grammars.OI11):
        value = value.T.reshape(tensor.shape)
    elif layout == grammars.CHANNEL_1D:
        value = value.transpose(1, 2, 0)
    elif layout == grammars.FLATTENED:
        before = plan[plan[tensor.layer].inputs[0]]
        height, width = plan[before.inputs[0]].size
        channels = plan[before.inputs[0]].channels
        value = value.reshape(height, width, channels, -1)  # type: ignore[arg-type]
        value = value.transpose(3, 2, 0, 1).reshape(tensor.shape)
    return np.ascontiguousarray(value)


def adapted(kernel: Array, channels: int, reverse: bool = False) -> Array:
    """Return the first kernel (H, W, I, O) for another number of input channels (timm's rule).

    One channel gets the sum over the old ones; n channels get them in turn, times old / n, so that
    the response to equal channels stays. `reverse`: the old ones are B, G, R; the new ones begin
    with R, as `Preprocessing.for_channels` has it.
    """
    old = kernel.shape[2]
    if channels == old:
        return kernel
    if reverse:
        kernel = kernel[:, :, ::-1]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    turns = np.take(kernel, [i % old for i in range(channels)], axis=2)
    return turns * np.float32(old / channels)


def assign(
    file: TensorFile,
    names: Names,
    wanted: list[Tensor],
    plan: Plan,
    model: Any,
    skip: Iterable[str] = (),
    reverse: bool = False,
) -> list[str]:
    """Write a file's tensors into a model's variables; return those with infinities or NaNs.

    Args:
        file: open.
        names: its names.
        wanted: the tensors of `plan`.
        plan: the network that the file holds.
        model: built from a plan that shares the layers' names; layers that it lacks are passed by.
        skip: layers whose variables stay as they are.
        reverse: the network reads blue first (see `adapted`).
    """
    layers = {layer.name: layer for layer in model.layers}
    operations = {layer.name: layer for layer in plan}
    biases = {}
    strange = []
    for tensor in wanted:
        if tensor.layer not in layers or tensor.layer in skip or tensor.name not in names:
            continue
        value = converted(file, names, tensor, plan)
        with np.errstate(over="ignore"):  # float64 may hold what float32 does not
            if not np.isfinite(value.astype(np.float32, copy=False)).all():
                strange.append(tensor.name)
        if tensor.variable == "bias" and tensor.optional:
            biases[tensor.layer] = value
            continue
        if tensor.variable == "kernel" and operations[tensor.layer].inputs == ("input",):
            value = adapted(value, layers[tensor.layer].kernel.shape[2], reverse)
        getattr(layers[tensor.layer], tensor.variable).assign(value)
    for operation in plan:  # exact: the norm subtracts its mean from what it reads
        if operation.op == "norm" and operation.inputs[0] in biases and operation.name in layers:
            mean = layers[operation.name].moving_mean
            mean.assign(np.asarray(mean) - biases[operation.inputs[0]])
    return strange


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
