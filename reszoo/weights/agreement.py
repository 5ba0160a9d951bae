"""Whether the network that a caller asks for is the one that weights are of.

A tag, a file's grammar or a file of ours says in which fields its network differs from the
catalogue's. Those that the caller gives explicitly must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reszoo import catalog
from reszoo.errors import SpecError
from reszoo.specs import ResNetSpec
from reszoo.weights.index import Entry
from reszoo.weights.readers import WeightFileError

#: Fields that change no tensor and no output of a trained network, or only its head: an explicit
#: value may differ from the weights'. Stride placement is the caller's risk, and may be asked for.
FREE = (
    "name", "classes", "input_shape", "initializer", "norm_momentum", "dropout", "block_dropout",
    "stochastic_depth", "shortcut_dropout", "zero_gamma", "gate_bias", "output_stride",
    "stride_placement",
)  # fmt: skip
# What a name says of a network, so that no file of ours may change it behind the name's back.
_IDENTITY = (
    "stem", "block", "depths", "widths", "expansion", "groups", "width_per_group",
    "activation_order", "attention", "antialias", "norm",
)  # fmt: skip
_TORCH = ("timm_v1", "torchvision", "timm_v2")


def of_archive(
    network: str | ResNetSpec, path: Path, fields: Mapping[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields that a `.keras` file of ours brings.

    Args:
        network: name or spec that the caller asks for.
        path: the file.
        fields: of the spec in the file.
        given: what the caller gives explicitly.

    Raises:
        SpecError: the file's network contradicts the one that is asked for.
        WeightFileError: the fields are no spec.
    """
    try:
        theirs = ResNetSpec.from_dict(fields)
    except (SpecError, TypeError) as error:
        raise WeightFileError(f"{path}: its spec cannot be read: {error}") from None
    if is_vgg(network):
        raise WeightFileError(f"{path} holds {theirs.name or 'a residual network'}, not {network}")
    differing = catalog.spec(network, **explicit(given)).diff(theirs)
    if isinstance(network, ResNetSpec):  # it says everything, its stride placement excepted
        differing = {n: pair for n, pair in differing.items() if n == "stride_placement"}
    own = not_given({n: b for n, (_, b) in differing.items() if n not in _IDENTITY}, given)
    if "shortcut" in own and "none" in differing["shortcut"]:
        mine, their = differing["shortcut"]
        raise SpecError(
            f"{path.name} holds a network with shortcut {their!r}, not {mine!r}: plain and "
            "residual nets are not each other's"
        )
    _compare(network, path.name, theirs, own, given)
    return own


def of_grammar(network: str | ResNetSpec, grammar: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a foreign file's grammar implies and the network's spec lacks.

    Args:
        network: name or spec that the caller asks for.
        grammar: of the file.
        given: what the caller gives explicitly.

    Raises:
        SpecError: what is given contradicts the grammar.
    """
    if is_vgg(network):
        return {}
    spec = catalog.spec(network, **explicit(given))
    own: dict[str, Any] = {}
    if spec.block == "bottleneck" and spec.stem != "cifar":
        if grammar in _TORCH:
            own["stride_placement"] = "3x3"
        elif grammar == "keras_applications_v1":
            own["stride_placement"] = "1x1"
    if grammar == "akamaster":
        own |= {"shortcut": "A", "shortcut_pad": "both"}
        _compare(network, "of akamaster's form", spec.replace(**own), own, given)
    elif grammar == "keras_applications_v1":
        own["norm_epsilon"] = 1.001e-5
    elif grammar == "bit_npz":
        own["weight_epsilon"] = 1e-10
    return not_given({n: v for n, v in own.items() if getattr(spec, n) != v}, given)


def agrees(
    network: str | ResNetSpec,
    entry: Entry,
    given: Mapping[str, Any],
    path: Path | None = None,
) -> None:
    """Refuse a network that contradicts published weights.

    Args:
        network: name or spec.
        entry: of the weights.
        given: what the caller gives explicitly.
        path: the file, if the caller gave one.

    Raises:
        SpecError: they contradict each other.
    """
    if is_vgg(network):
        if entry.network != network:
            raise SpecError(f"{path} holds {entry.name}, not {network}")
        return
    theirs = catalog.spec(entry.network, **entry.overrides)
    _compare(network, entry.name, theirs, entry.overrides, given)


def _compare(
    network: str | ResNetSpec,
    source: str,
    theirs: ResNetSpec,
    own: Mapping[str, Any],
    given: Mapping[str, Any],
) -> None:
    """Refuse a network that contradicts the one that the weights are of."""
    base = {} if isinstance(network, ResNetSpec) else own
    mine = catalog.spec(network, **{**base, **explicit(given)})
    for name, (wanted, has) in mine.diff(theirs).items():
        if name in FREE:
            continue
        asked = {"depths": "depth", "widths": "width", "stem_width": "width"}.get(name, name)
        asked_for = given.get(name) is not None or given.get(asked) is not None
        hint = "leave it out, or build without weights"
        if not asked_for:
            hint = "change the spec" if isinstance(network, ResNetSpec) else "another network"
        raise SpecError(
            f"{name}={wanted!r} contradicts the weights {source}, whose network has "
            f"{name}={has!r}; {hint}"
        )


def not_given(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `own` that the caller does not give."""
    return {name: value for name, value in own.items() if given.get(name) is None}


def explicit(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not None: None means as it was."""
    return {name: value for name, value in given.items() if value is not None}


def is_vgg(network: str | ResNetSpec) -> bool:
    """Return whether a network is one of the comparators, which no spec describes."""
    return isinstance(network, str) and network in catalog.VGG
