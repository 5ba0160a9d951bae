"""Whether the network that a caller asks for is the one that weights are of.

A tag, a file of ours or the names of a foreign file's tensors say in which fields the weights'
network differs from the catalogue's. Those that the caller gives explicitly must agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from reszoo import catalog
from reszoo.errors import SpecError
from reszoo.plans import plan
from reszoo.specs import ResNetSpec
from reszoo.weights import grammars
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
    "stem", "block", "depths", "widths", "stem_width", "expansion", "groups", "width_per_group",
    "first_reduction", "shortcut_kernel", "activation_order", "attention", "antialias", "norm",
)  # fmt: skip
_MOST_STAGES = 64

#: Grammars that one program's networks have -> one of them; its tensors tell the sizes.
_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "akamaster": ("resnet20", {"shortcut": "A", "shortcut_pad": "both"}),
    "keras_applications_v1": ("resnet50", {"norm_epsilon": 1.001e-5}),
    "keras_applications_v2": ("resnet50v2", {}),
    "bit_npz": ("resnetv2_50x1_bit", {"weight_epsilon": 1e-10}),
}
_SIZES = ("depths", "widths", "stem_width")
# The fields of a name's network that such a file may change.
_BROUGHT = ("stride_placement", "norm_epsilon", "weight_epsilon", "shortcut", "shortcut_pad")
_EPSILONS = ("norm_epsilon", "weight_epsilon")
#: Grammars of many programs, this one among them -> what timm's and torchvision's networks have.
TORCH: dict[str, dict[str, Any]] = {
    "timm_v1": {"stride_placement": "3x3"},
    "torchvision": {"stride_placement": "3x3"},
    "timm_v2": {"stride_placement": "3x3", "preact_split": "before"},
}


def of_file(
    network: str | ResNetSpec, path: Path, fields: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields that a file of ours brings.

    Args:
        network: name or spec that the caller asks for.
        path: the file.
        fields: of the spec in the file, which may lie.
        given: what the caller gives explicitly.

    Raises:
        SpecError: the file's network contradicts the one that is asked for.
        WeightFileError: the fields are no spec, or the network is a VGG.
    """
    try:
        if any(isinstance(v, list) and len(v) > _MOST_STAGES for v in fields.values()):
            raise SpecError(f"more than {_MOST_STAGES} stages")
        theirs = ResNetSpec.from_dict(fields)
    except (SpecError, TypeError) as error:
        raise WeightFileError(f"{path}: its spec cannot be read: {str(error)[:300]}") from None
    if is_vgg(network):
        label = _short(theirs.name or "a residual network")
        raise WeightFileError(f"{path} holds {label}, not {network}")
    return _brought(network, path.name, theirs, given, None)


def of_grammar(
    network: str | ResNetSpec,
    source: str,
    grammar: str,
    names: Collection[str],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the fields that the names of a foreign file's tensors bring.

    Args:
        network: name or spec that the caller asks for.
        source: what messages call the file.
        grammar: of its names.
        names: of its tensors, as the grammar spells them.
        given: what the caller gives explicitly.

    Raises:
        SpecError: the network that has such names contradicts the one that is asked for.
    """
    if is_vgg(network):
        return {}
    mine = catalog.spec(network, **explicit(given))
    if grammar in _NETWORKS:
        name, fields = _NETWORKS[grammar]
        sizes = {size: getattr(mine, size) for size in _SIZES}
        theirs = catalog.spec(name, **fields, **sizes)
        return _brought(
            network, source, theirs, given, _BROUGHT, ("norm_epsilon", "weight_epsilon")
        )
    facts, lacking = elsewhere(mine, grammar, given)
    return {} if any(name in names for name in lacking) else facts


def elsewhere(
    spec: ResNetSpec, grammar: str, given: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return how timm's and torchvision's network of such names differs.

    No program but this one gives CIFAR's networks these names.

    Args:
        spec: of the network.
        grammar: in which its tensors are named.
        given: fields that stay as they are.

    Returns:
        Its fields that change what is computed, and the spec's tensors that it does not have.
    """
    facts = {} if spec.stem == "cifar" else not_given(TORCH.get(grammar, {}), given or {})
    if not facts:
        return {}, []
    spec = spec.replace(input_shape=(None, None, 3))
    mine, theirs = plan(spec), plan(spec, **facts)
    changing = {n: v for n, v in facts.items() if plan(spec, **{n: v}).layers != mine.layers}
    if not changing:
        return {}, []
    try:
        has, names = (
            [tensor.name for tensor in grammars.tensors(p, grammar)] for p in (theirs, mine)
        )
    except SpecError:  # a network that has no such names: no file fits it
        return {}, []
    return changing, sorted(set(names) - set(has))


def of_entry(
    network: str | ResNetSpec, entry: Entry, given: Mapping[str, Any], path: Path | None = None
) -> dict[str, Any]:
    """Return the fields that published weights bring.

    Args:
        network: name or spec.
        entry: of the weights.
        given: what the caller gives explicitly.
        path: the file, if the caller gave one.

    Raises:
        SpecError: the network contradicts the weights'.
    """
    if is_vgg(network):
        if entry.network != network:
            raise SpecError(f"{path} holds {entry.name}, not {network}")
        return {}
    theirs = catalog.spec(entry.network, **entry.overrides)
    return _brought(network, entry.name, theirs, given, entry.overrides)


def _brought(
    network: str | ResNetSpec,
    source: str,
    theirs: ResNetSpec,
    given: Mapping[str, Any],
    may: Collection[str] | None,
    open_in_specs: Collection[str] = (),
) -> dict[str, Any]:
    """Return the fields in which `theirs` differs and that the caller leaves open.

    `may`: the fields of a name's network that these weights may change; None: all that are not its
    identity. A spec leaves nothing open but its stride placement and `open_in_specs`.
    """
    mine = catalog.spec(network, **explicit(given))
    whole = isinstance(network, ResNetSpec)
    own = {}
    for name, (wanted, has) in mine.diff(theirs).items():
        if name in ("classes", "input_shape"):  # the tensors tell
            continue
        asked = {"depths": "depth", "widths": "width", "stem_width": "width"}.get(name, name)
        asked_for = given.get(name) is not None or given.get(asked) is not None
        plain = name == "shortcut" and "none" in (wanted, has)
        changeable = name not in _IDENTITY if may is None else name in may
        left_open = name in ("stride_placement", *open_in_specs)
        left_open |= not whole and changeable and not plain
        if left_open and not asked_for:
            own[name] = has
        elif name not in FREE:
            hint = "give that, or another network"
            if plain:
                hint = "plain and residual nets are not each other's"
            elif asked_for:
                hint = "leave it out, or build without weights"
            elif whole:
                hint = "change the spec"
            raise SpecError(
                f"{name}={wanted!r} contradicts the weights {source}, whose network has "
                f"{name}={_short(repr(has))}; {hint}"
            )
    return own


def not_given(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `own` that the caller does not give."""
    return {name: value for name, value in own.items() if given.get(name) is None}


def explicit(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not None: None means as it was."""
    return {name: value for name, value in given.items() if value is not None}


def is_vgg(network: str | ResNetSpec) -> bool:
    """Return whether a network is one of the comparators, which no spec describes."""
    return isinstance(network, str) and network in catalog.VGG


def _short(text: str) -> str:
    """Return a foreign file's words, harmless and not long."""
    return text.encode("unicode_escape").decode()[:100]
