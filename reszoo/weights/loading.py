"""`build(..., weights=...)`: which network a source of weights is of, and its tensors into a model.

A tag of the index or a file says what it knows: the network's fields in which it differs from the
catalogue's, its classes, its preprocessing and labels. What a caller gives explicitly must agree.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reszoo import catalog
from reszoo.errors import SpecError, closest
from reszoo.plans import Plan, plan
from reszoo.preprocessing import Preprocessing
from reszoo.specs import ResNetSpec
from reszoo.weights import conversion, grammars, index, own_files
from reszoo.weights.agreement import agrees, explicit, is_vgg, not_given, of_archive, of_grammar
from reszoo.weights.conversion import Names, TensorFile
from reszoo.weights.grammars import Tensor
from reszoo.weights.readers import WeightFile, WeightFileError

_SUFFIXES = (".keras", ".h5", ".pth", ".pt", ".th", ".bin", ".safetensors", ".npz")


class WeightsNotice(UserWarning):
    """What a user should know about weights that were loaded; each text is shown once."""


@dataclass
class Source:
    """Weights on their way into a model.

    Attributes:
        network: for `plan`: name or spec.
        overrides: for `plan`.
        path: the file.
        grammar: of its names.
        classes: outputs of its classifier; None: it has none.
        channels: that its first convolution reads.
        preprocessing: the input that it wants, if known.
        labels: a label set, pairs, or None.
        origin: JSON types: where the weights came from.
    """

    network: str | ResNetSpec
    overrides: dict[str, Any]
    path: Path
    grammar: str
    classes: int | None
    channels: int = 3
    preprocessing: Preprocessing | None = None
    labels: Any = None
    origin: dict[str, Any] = field(default_factory=dict)

    def meta(self, channels: int, in_graph: bool) -> dict[str, Any]:
        """Return what the model's config keeps of them, for a number of input channels."""
        known = self.preprocessing and self.preprocessing.for_channels(channels)
        built = self.overrides.get("classes", getattr(self.network, "classes", None))
        return {
            "preprocessing": known.to_dict() if known else None,
            "in_graph": in_graph,
            "labels": self.labels if built == self.classes else None,
            "weights": self.origin,
        }

    def load_into(self, model: Any, description: Plan) -> None:
        """Write the tensors into a model built from `description`.

        Raises:
            SpecError: fully connected layers of another input size.
            WeightFileError: the file is damaged, hostile or of another network.
        """
        full = self._plan
        self._check_size(model, full, description)
        present = {layer.name for layer in model.layers}
        with self._open(model, full) as file:
            names = conversion.canonical(file, self.grammar)
            wanted = self.check(names, present)
            skip = self._new_head(description, present)
            known = self.preprocessing
            reverse = known is not None and known.channel_order == "bgr"
            conversion.assign(file, names, wanted, full, model, skip, reverse)

    def check(self, names: Names, present: Collection[str] | None = None) -> list[Tensor]:
        """Return the tensors that the network has in such a file.

        Args:
            names: what the file has.
            present: layers of the model; None: it is not built yet.

        Raises:
            WeightFileError: the file is of another network.
        """
        full = self._plan
        try:
            wanted = grammars.tensors(full, self.grammar)
        except SpecError as error:
            raise WeightFileError(f"{self.path}: {error}") from None
        if self.classes is None:  # the file ends before the classifier
            wanted = [tensor for tensor in wanted if tensor.layer != "head_dense"]
        if problem := conversion.mismatch(full, names, wanted, present):
            raise WeightFileError(f"{self.path} {problem}")
        return wanted

    @functools.cached_property
    def _plan(self) -> Plan:
        """The network that the file holds."""
        overrides = {**self.overrides, "classes": self.classes or 1}
        overrides.pop("output_stride", None)
        # VGG's fully connected layers fit one size; what any other net is fed does not matter.
        size = 224 if is_vgg(self.network) else None
        return plan(self.network, **{**overrides, "input_shape": (size, size, self.channels)})

    def _check_size(self, model: Any, full: Plan, description: Plan) -> None:
        if not any(layer.name == "head_fc1" for layer in model.layers):
            return
        size, trained = (p[p.features].size for p in (description, full))
        if size != trained:
            raise SpecError(
                f"the fully connected layers of {full.name} read maps of {trained} pixels, not "
                f"{size}: with weights use images of 224x224, or include_top=False"
            )

    @contextlib.contextmanager
    def _open(self, model: Any, full: Plan) -> Iterator[TensorFile]:
        with own_files.open_file(self.path) as (file, archive):
            if self.grammar != "reszoo" or archive is not None:
                yield file
                return
            # Keras numbers the layers, so the order of the model that was saved is needed.
            dense = next((x for x in model.layers if x.name == "head_dense"), None)
            if dense is None or dense.units != self.classes:
                from reszoo.models import build

                whole = {**self.overrides, "classes": self.classes}
                model = build(self.network, include_top=bool(self.classes), **whole)
            assert isinstance(file, WeightFile)
            try:
                yield own_files.NamedWeights(file, own_files.model_layers(model, full))
            except WeightFileError as error:
                raise WeightFileError(
                    f"{error}; .weights.h5 files number their layers, so they fit the networks "
                    "that wrote them only"
                ) from None

    def _new_head(self, description: Plan, present: set[str]) -> list[str]:
        """Return the layers that keep their initial values, and say so."""
        wanted = _classes(description)
        if not wanted or wanted == self.classes or "head_dense" not in present:
            return []
        had = f"{self.classes} classes" if self.classes else "no classifier"
        _say(
            f"{self.path.name} has {had}: the backbone is loaded, the new classifier of {wanted} "
            "classes is untrained"
        )
        return ["head_dense"]


def _classes(description: Plan) -> int:
    """Return the outputs of a plan's classifier; 0 without one."""
    return description[description.logits].channels if description.logits else 0


def resolve(
    network: str | ResNetSpec,
    weights: str | os.PathLike[str] | None,
    overrides: Mapping[str, Any],
    *,
    verify: bool = True,
    allow_noncommercial: bool = False,
) -> Source:
    """Return the source that `build`'s arguments name; published files are fetched.

    Raises:
        SpecError: an unknown name, tag or path, or an argument that contradicts the weights.
        WeightsError: the file cannot be had.
        WeightFileError: it cannot be read.
    """
    tag = None
    if isinstance(network, str) and "." in network:
        network, tag = network.split(".", 1)
        if weights is not None and weights != tag:
            raise SpecError(
                f'the name asks for weights "{tag}" and weights= for "{weights}": give one of them'
            )
        weights = tag
    given = dict(overrides)
    if not is_vgg(network):
        catalog.spec(network)  # an unknown name is reported before its weights are looked for
    if _is_path(weights):
        return _from_file(network, Path(os.fspath(weights)).expanduser(), given)  # type: ignore[arg-type]
    if not isinstance(weights, str):
        raise SpecError(f'weights takes None, "imagenet", a tag or a path, not {weights!r}')
    entry = index.find(network if isinstance(network, str) else network.name, weights)
    agrees(network, entry, given)
    path = index.fetch(entry, verify=verify, allow_noncommercial=allow_noncommercial)
    return _from_entry(network, entry, path, given)


def _is_path(weights: object) -> bool:
    if isinstance(weights, os.PathLike):
        return True
    if not isinstance(weights, str):
        return False
    return os.sep in weights or weights.endswith(_SUFFIXES)


def _from_entry(
    network: str | ResNetSpec, entry: index.Entry, path: Path, given: dict[str, Any]
) -> Source:
    own = not_given(entry.overrides, given)
    _say_own(entry.name, network, own)
    return Source(
        network,
        {**_outputs(network, entry.classes), **own, **explicit(given)},
        path,
        entry.grammar,
        entry.classes if entry.top else None,
        preprocessing=entry.preprocessing,
        labels=entry.label_set,
        origin={
            "name": entry.name,
            "file": path.name,
            "address": entry.address,
            "licence": entry.licence,
        },
    )


def _from_file(network: str | ResNetSpec, path: Path, given: dict[str, Any]) -> Source:
    if not path.is_file():
        raise SpecError(f"no weights file at {path}{_near(path)}")
    with own_files.open_file(path) as (file, archive):
        if archive is not None and archive.meta.get("folded"):
            raise WeightFileError(f"{path} holds a folded model; give the unfolded one")
        grammar = grammars.recognise(list(file.shapes))
        if archive is not None and archive.spec is not None:
            grammar = "reszoo"
        if grammar is None:
            raise WeightFileError(
                f"{path}: its tensors are named like no known network's "
                f"(first: {conversion.listed(list(file.shapes), 3) or 'none'})"
            )
        names = None
        if grammar == "reszoo" and archive is None:
            classes, channels = own_files.classifier_outputs(file), own_files.channels(file)
        else:
            names = conversion.canonical(file, grammar)
            classes = conversion.head_classes(names, grammar)
            channels = conversion.input_channels(names, grammar)
    entry = _published(path)
    if entry is not None:  # all that the index knows belongs to it
        agrees(network, entry, given, path)
        return _from_entry(network, entry, path, given)
    if archive is not None and archive.spec is not None:
        own = of_archive(network, path, archive.spec, given)
        own.pop("input_shape", None)  # its channels are those of the first kernel, see below
    else:
        own = of_grammar(network, grammar, given)
    named = isinstance(network, str) and not is_vgg(network)
    if named and given.get("input_shape") is None and "input_shape" not in own:
        shape = catalog.spec(network).input_shape
        if channels not in (None, shape[2]):
            own["input_shape"] = (*shape[:2], channels)
    _say_own(path.name, network, own)
    known = own_files.Known() if archive is None else archive.known(path)
    source = Source(
        network,
        {**own, **_outputs(network, classes), **explicit(given)},
        path,
        grammar,
        classes,
        channels or 3,
        known.preprocessing,
        known.labels,
        known.origin or {"file": path.name},
    )
    if names is not None:  # known already, so refused before a model is built
        source.check(names)
    return source


def _outputs(network: str | ResNetSpec, classes: int | None) -> dict[str, int]:
    """Return the classes that weights bring: a name leaves them open, a spec does not."""
    return {"classes": classes} if classes and isinstance(network, str) else {}


def _published(path: Path) -> index.Entry | None:
    """Return the index's entry of a file that has its published name and hash."""
    for entry in index.entries():
        if entry.filename == path.name and entry.hash and not index.mismatch(entry, path):
            return entry
    return None


def _near(path: Path) -> str:
    with contextlib.suppress(OSError):
        name = closest(path.name, [p.name for p in path.parent.iterdir()])
        if name:
            return f'; did you mean "{name}"?'
    return ""


def _say_own(source: str, network: str | ResNetSpec, own: Mapping[str, Any]) -> None:
    if is_vgg(network):
        return
    spec = catalog.spec(network)
    changed = {n: v for n, v in own.items() if n != "classes" and getattr(spec, n) != v}
    if changed:
        fields = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        _say(f"{source}: built with {fields}, as these weights were trained; model.spec shows it")


_said: set[str] = set()


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        package = str(Path(__file__).parents[1])
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_code.co_filename.startswith(package):
            level, frame = level + 1, frame.f_back
        warnings.warn(text, WeightsNotice, stacklevel=level)  # shown at the caller's line
