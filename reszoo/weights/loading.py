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
from reszoo.comparators import image_size
from reszoo.errors import SpecError, nearby, shown
from reszoo.plans import Plan, plan
from reszoo.preprocessing import Preprocessing
from reszoo.specs import ResNetSpec
from reszoo.weights import conversion, grammars, index, own_files
from reszoo.weights.agreement import TORCH, explicit, is_vgg, of_entry, of_file, of_grammar
from reszoo.weights.conversion import Names, TensorFile
from reszoo.weights.grammars import Tensor
from reszoo.weights.readers import WeightFile, WeightFileError

_TRAINED = "these weights were trained"
_SUFFIXES = (
    ".keras", ".h5", ".pth", ".pt", ".th", ".bin", ".tar", ".ckpt", ".safetensors", ".npz",
)  # fmt: skip


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
        names: of a file that the caller gave; None: its layers are numbered, or it is published.
        flattened: what its first fully connected layer reads (VGG); None: it has none.
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
    names: Names | None = None
    flattened: int | None = None

    def meta(self, channels: int, in_graph: bool) -> dict[str, Any]:
        """Return what the model's config keeps of them, for a number of input channels."""
        known = self.preprocessing and self.preprocessing.for_channels(channels)
        built = self.overrides.get("classes", getattr(self.network, "classes", None))
        return {
            "preprocessing": known.to_dict() if known else None,
            "in_graph": in_graph,
            "labels": self.labels if self.classes and built == self.classes else None,
            "weights": self.origin,
        }

    def load_into(self, model: Any, description: Plan) -> None:
        """Write the tensors into a model built from `description`.

        Raises:
            WeightFileError: the file is damaged, hostile or of another network.
        """
        full = self._plan
        present = {layer.name for layer in model.layers}
        with self._open(model, full) as file:
            names = conversion.canonical(file, self.grammar)
            wanted = self._tensors(names, present)
            skip = self._new_head(description, present)
            known = self.preprocessing
            reverse = known is not None and known.channel_order == "bgr"
            strange = conversion.assign(file, names, wanted, full, model, skip, reverse)
            if isinstance(file, WeightFile) and file.passed_over:
                say(f"{self.path.name} holds several sets of weights; {file.note}", self.path)
        if strange:
            say(
                f"{self.path.name}: {len(strange)} tensors hold infinities or NaN: "
                f"{conversion.listed(strange)}",
                self.path,
            )

    def check(self, description: Plan, needed: Collection[str], data_format: str) -> None:
        """Refuse a file before anything is built that its tensors do not cover.

        Says so where its first kernel is adapted to another number of channels.

        Args:
            description: what is to be built.
            needed: layers of it that are.
            data_format: in which the caller gives shapes.

        Raises:
            SpecError: fully connected layers of another input size.
            WeightFileError: the file is of another network, or not all of it is there.
        """
        size, trained = (p[p.features].size for p in (description, self._plan))
        if "head_fc1" in needed and size != trained:
            height, width = self._plan.layers[0].size
            raise SpecError(
                f"the fully connected layers of {self.path.name} read maps of {trained} pixels, "
                f"not {size}: with weights use images of {height}x{width}, or include_top=False"
            )
        if self.names is not None:
            self._tensors(self.names, needed)
        start = description.layers[0]
        if start.channels != self.channels:
            shape = (*start.size, start.channels)
            if data_format == "channels_first":
                shape = (start.channels, *start.size)
            say(
                f"{self.path.name} has {self.channels} input channel{'s' * (self.channels > 1)}: "
                f"its first kernel is adapted to {start.channels}{_turned(shape, data_format)}",
                self.path,
            )

    def check_ends(self, stem: tuple[int, ...], head: tuple[int, ...]) -> None:
        """Refuse ends of another network, whose sizes would make others larger than the file.

        Args:
            stem: shape of the first convolution's kernel, () where names tell it.
            head: shape of the classifier's kernel, likewise.

        Raises:
            WeightFileError: they are.
        """
        first = next(layer for layer in self._plan if layer.op == "conv")
        wanted = (first.kernel, first.kernel, first.in_channels // first.groups, first.channels)
        if stem and stem != wanted:
            raise WeightFileError(
                f"{self.path} is not {self._plan.name}: its first kernel is {stem}, not {wanted}"
            )
        features = self._plan["head_dense"].in_channels if head else 0
        if head and head[0] != features:
            raise WeightFileError(
                f"{self.path} is not {self._plan.name}: its classifier reads {head[0]} features, "
                f"not {features}"
            )

    def _tensors(self, names: Names, present: Collection[str]) -> list[Tensor]:
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
        size: tuple[int | None, int | None] = (None, None)
        if is_vgg(self.network):
            size = image_size(str(self.network), self.flattened, overrides.get("input_shape"))
        return plan(self.network, **{**overrides, "input_shape": (*size, self.channels)})

    @contextlib.contextmanager
    def _open(self, model: Any, full: Plan) -> Iterator[TensorFile]:
        with own_files.open_file(self.path) as (file, _):
            if not _numbered(file, self.grammar):
                yield file
                return
            # Keras numbers the layers, so the order of the model that was saved is needed.
            dense = next((x for x in model.layers if x.name == "head_dense"), None)
            if dense is None or dense.units != self.classes:
                from reszoo.models import build

                whole = {**self.overrides, "classes": self.classes}
                if is_vgg(self.network):  # the order of layers is the same at any size
                    whole["input_shape"] = (32, 32, self.channels)
                model = build(self.network, include_top=bool(self.classes), **whole)
            assert isinstance(file, WeightFile)
            try:
                yield own_files.NamedWeights(file, own_files.model_layers(model, full))
            except WeightFileError as error:
                raise WeightFileError(
                    f"{error}; .weights.h5 files number their layers, so they fit the networks "
                    "that wrote them only; save it as .keras or .h5"
                ) from None

    def _new_head(self, description: Plan, present: set[str]) -> list[str]:
        """Return the layers that keep their initial values, and say so."""
        wanted = _classes(description)
        if not wanted or wanted == self.classes or "head_dense" not in present:
            return []
        had = f"{self.classes} classes" if self.classes else "no classifier"
        say(
            f"{self.path.name} has {had}: the backbone is loaded, the new classifier of {wanted} "
            "classes is untrained",
            self.path,
        )
        return ["head_dense"]


def _numbered(file: TensorFile, grammar: str) -> bool:
    """Return whether it is a `.weights.h5`, which counts the layers of each kind."""
    return grammar == "reszoo" and isinstance(file, WeightFile)


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
        return _from_file(network, Path(os.path.expanduser(weights)), given)  # type: ignore[arg-type]
    if not isinstance(weights, str):
        raise SpecError(f'weights takes None, "imagenet", a tag or a path, not {shown(weights)}')
    entry = index.find(network if isinstance(network, str) else network.name, weights)
    own = of_entry(network, entry, given)
    path = index.fetch(entry, verify=verify, allow_noncommercial=allow_noncommercial)
    return _from_entry(network, entry, path, own, given)


def _is_path(weights: object) -> bool:
    if isinstance(weights, os.PathLike):
        return True
    if not isinstance(weights, str):
        return False
    if os.sep in weights or weights.endswith(_SUFFIXES):
        return True
    return not index.is_tag(weights) and os.path.isfile(os.path.expanduser(weights))


def _turned(shape: tuple[int | None, ...], data_format: str) -> str:
    """Return a hint if a shape looks like one in the other order of axes, or ""."""
    last = data_format == "channels_last"
    channels, other = (shape[0], shape[2]) if last else (shape[2], shape[0])
    if channels not in (1, 3, 4) or other is None or other <= 4:
        return ""
    meant = (*shape[1:], shape[0]) if last else (shape[2], *shape[:2])
    return f"; did you mean input_shape={meant} and not {shape}, in the order {data_format}?"


def _from_entry(
    network: str | ResNetSpec,
    entry: index.Entry,
    path: Path,
    own: dict[str, Any],
    given: dict[str, Any],
) -> Source:
    _say_own(path, entry.name, network, own, _TRAINED)
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
    if os.path.isdir(path):
        raise SpecError(f"{path} is a directory and no weights file")
    if not os.path.isfile(path):  # False of names that no file can have, too
        raise SpecError(f"no weights file at {shown(path, str)}{nearby(path)}")
    with own_files.open_file(path) as (file, said):
        if said.meta.get("folded"):
            raise WeightFileError(f"{path} holds a folded model; give the unfolded one")
        grammar = grammars.recognise(list(file.shapes))
        if said.spec is not None and not isinstance(file, WeightFile):
            grammar = "reszoo"
        if grammar is None:
            raise WeightFileError(
                f"{path}: its tensors are named like no known network's "
                f"(first: {conversion.listed(list(file.shapes), 3) or 'none'})"
            )
        names = None
        stem: tuple[int, ...] = ()
        head: tuple[int, ...] = ()
        if _numbered(file, grammar):
            head, stem = own_files.classifier(file), own_files.first_kernel(file)
            classes, channels = (head[1] if head else None), (stem[2] if stem else None)
            flattened = own_files.flattened(file)
        else:
            names = conversion.canonical(file, grammar)
            classes = conversion.head_classes(names, grammar)
            channels = conversion.input_channels(names, grammar)
            flattened = conversion.flattened(names, grammar)
    entry = _published(path)
    if entry is not None:  # all that the index knows belongs to it
        return _from_entry(network, entry, path, of_entry(network, entry, given, path), given)
    why = _TRAINED
    if said.spec is not None:
        own = of_file(network, path, said.spec, given)
    else:
        own = of_grammar(network, path.name, grammar, names or (), given)
        why = f"{grammar} networks are"
        if grammar in TORCH:
            why = f"other {why}; if this one is not, give what differs"
        if grammar == "reszoo" and names and not is_vgg(network):
            say(
                f"{path.name} does not say which network it is of: taken for the "
                f"{network if isinstance(network, str) else network.name} that was asked for",
                path,
            )
    _say_own(path, path.name, network, own, why)
    named = isinstance(network, str) and not is_vgg(network)
    if named and given.get("input_shape") is None:
        shape = catalog.spec(network).input_shape
        if channels not in (None, shape[2]):
            own["input_shape"] = (*shape[:2], channels)
            read = {"input_shape": own["input_shape"]}
            _say_own(path, path.name, network, read, "the first convolution is")
    known = said.known(path)
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
        names,
        flattened,
    )
    source.check_ends(stem, head)
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


def _say_own(
    path: Path, source: str, network: str | ResNetSpec, own: Mapping[str, Any], why: str
) -> None:
    if is_vgg(network):
        return
    spec = catalog.spec(network)
    changed = {n: v for n, v in own.items() if n != "classes" and getattr(spec, n) != v}
    if changed:
        fields = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        say(f"{source}: built with {fields}, as {why}; model.spec shows it", path)


_said: set[tuple[str, str]] = set()


def say(text: str, path: Path | None = None) -> None:
    """Warn once a process and file with a WeightsNotice, at the line that called this package."""
    key = ("" if path is None else os.path.abspath(path), text)
    if key not in _said:
        _said.add(key)
        package = str(Path(__file__).parents[1])
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_code.co_filename.startswith(package):
            level, frame = level + 1, frame.f_back
        warnings.warn(text, WeightsNotice, stacklevel=level)  # shown at the caller's line
