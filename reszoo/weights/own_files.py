"""Files that hold our models: what they say of them, and Keras' `.weights.h5` and `.keras`.

Keras addresses a layer's variables by the class and position of the layer
(`layers/conv2d_3/vars/0`) and notes its name beside them; here they get the layers' names back,
without Keras' loader.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reszoo.errors import SpecError, unknown
from reszoo.labels import LABEL_SETS
from reszoo.plans import Plan
from reszoo.preprocessing import Preprocessing
from reszoo.specs import ResNetSpec
from reszoo.weights import grammars
from reszoo.weights.conversion import Array, TensorFile, listed
from reszoo.weights.readers import WeightFile, WeightFileError, open_weights
from reszoo.weights.readers._base import Refused, Source, refusing
from reszoo.weights.readers._zip import Archive

#: Where files other than those of our own model class say what they hold: a key in the build
#: config of a stock Keras model, and in the metadata of safetensors.
STATEMENT = "reszoo"
# Parsed JSON takes 30 times its text; ResNet-1202 has 4 MB, labels of 21,000 classes have 1 MB.
_CONFIG_LIMIT = 8 * 2**20
_STATEMENT_LIMIT = 2 * 2**20
_VARIABLES = {
    "Conv2D": ("kernel", "bias"),
    "Conv1D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "GroupNormalization": ("gamma", "beta"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


@dataclass(frozen=True)
class Known:
    """What a file of ours says of its weights: see reszoo.layers.ResNet."""

    preprocessing: Preprocessing | None = None
    labels: Any = None
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Statement:
    """What a file says besides its weights, unchecked.

    Attributes:
        spec: fields of the spec, or None (VGG, files of others).
        meta: see reszoo.layers.ResNet.
    """

    spec: dict[str, Any] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Any) -> Statement:
        """Return what JSON of unknown origin states; what is of another kind is left out."""
        spec, meta = (values.get(n) if isinstance(values, dict) else None for n in ("spec", "meta"))
        return cls(spec if isinstance(spec, dict) else None, meta if isinstance(meta, dict) else {})

    @classmethod
    def of_build(cls, config: Any) -> Statement:
        """Return what the build config of a stock Keras model states (see `state`)."""
        return cls.of(config.get(STATEMENT) if isinstance(config, dict) else None)

    def known(self, path: Path) -> Known:
        """Return the part of `meta` that belongs to the weights.

        Raises:
            WeightFileError: it is not what reszoo writes.
        """
        values, names, origin = (self.meta.get(k) for k in ("preprocessing", "labels", "weights"))
        try:
            if isinstance(names, list):
                names = [(str(identifier), str(name)) for identifier, name in names]
            elif names is not None and names not in LABEL_SETS:
                raise SpecError(unknown("label set", names, LABEL_SETS))
            return Known(
                Preprocessing.from_dict(values) if values else None,
                names,
                dict(origin) if isinstance(origin, dict) else {},
            )
        except (SpecError, TypeError, ValueError, AttributeError) as error:
            raise WeightFileError(f"{path}: its metadata cannot be read: {error}") from None


def state(model: Any, spec: ResNetSpec | None, meta: dict[str, Any]) -> None:
    """Let a model of stock layers have a spec, and its files state what our class's config does.

    In its build config: Keras builds a functional model from its layers and passes that by.
    """
    model.spec = spec
    stock = model.get_build_config
    statement = {"spec": spec and spec.to_dict(), "meta": meta}
    model.get_build_config = lambda: {**(stock() or {}), STATEMENT: statement}


def stated(model: Any) -> Statement:
    """Return what the files of a model state."""
    meta = getattr(model, "meta", None)
    if meta is None:  # of stock layers
        return Statement.of_build(model.get_build_config())
    return Statement(model.spec and model.spec.to_dict(), dict(meta))


class NamedWeights:
    """An open file of ours under names `layer/variable`."""

    def __init__(self, file: WeightFile, layers: Sequence[tuple[str, str]]) -> None:
        self._file = file
        self._paths = dict(_paths(file, layers))
        self.shapes = {name: file.shapes[path] for name, path in self._paths.items()}
        self.dtypes = {name: file.dtypes[path] for name, path in self._paths.items()}

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """Return one variable, refused unless its declared shape is `shape`."""
        return self._file.read(self._paths[name], shape)


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[tuple[WeightFile | NamedWeights, Statement]]:
    """Open any weight file; of a `.keras` file the tensors are called `layer/variable`.

    So are those of keras.applications' `.weights.h5`. Yields the file and what it says of itself.

    Raises:
        WeightFileError: it is damaged, hostile or of no known kind.
    """
    if path.suffix == ".keras":
        with _open_archive(path) as (layers, statement, file):
            yield NamedWeights(file, layers), statement
    else:
        with open_weights(path) as file:
            if noted := _of_keras_applications(file):
                yield NamedWeights(file, noted), Statement()
                return
            text = file.metadata.get(STATEMENT)
            yield file, refusing(str(path), lambda: _parsed(text)) if text else Statement()


def _of_keras_applications(file: WeightFile) -> list[tuple[str, str]]:
    """Return (name, class name) of the layers of such a `.weights.h5`, which notes the names."""
    kinds = {_snake(kind): kind for kind in _VARIABLES}
    layers = [
        (name, kinds[group[1]])
        for path, name in file.group_names.items()
        if (group := re.fullmatch(r"layers/(.+?)(_\d+)?/vars", path)) and group[1] in kinds
    ]
    names = [f"{name}/{variable}" for name, kind in layers for variable in _VARIABLES[kind]]
    grammar = grammars.recognise(names) or ""
    return layers if grammar.startswith("keras_applications") else []


def _snake(kind: str) -> str:
    """Return what Keras makes of a class name in a file."""
    from keras.src.utils.naming import to_snake_case

    return str(to_snake_case(kind))


def _parsed(text: str) -> Statement:
    if len(text) > _STATEMENT_LIMIT:
        raise Refused(f"what it says of its network has {len(text):,} characters")
    try:
        return Statement.of(json.loads(text))
    except RecursionError:
        raise Refused("what it says of its network is no JSON") from None


_Layers = tuple[tuple[str, str], ...]


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[tuple[_Layers, Statement, WeightFile]]:
    """Open a `.keras` file: its configuration as JSON, its weights through the HDF5 reader."""
    with tempfile.TemporaryDirectory(prefix="reszoo-") as scratch:
        weights = Path(scratch) / "model.weights.h5"

        def unpack() -> tuple[_Layers, Statement]:
            source = Source(path)
            try:
                archive = Archive(source)
                members = archive.members
                for name in ("config.json", "model.weights.h5"):
                    if name not in members:
                        raise Refused(f"no Keras model file: it has no {name}")
                    if members[name].deflated:
                        raise Refused(f"its {name} is compressed, which Keras never does")
                if (size := members["config.json"].size) > _CONFIG_LIMIT:
                    raise Refused(f"a config.json of {size:,} bytes; read are {_CONFIG_LIMIT:,}")
                config = _configuration(archive.read(members["config.json"]).tobytes())
                weights.write_bytes(archive.read(members["model.weights.h5"]).tobytes())
                return config
            finally:
                source.close()

        layers, statement = refusing(str(path), unpack)
        try:
            with open_weights(weights) as file:
                yield layers, statement, file
        except WeightFileError as error:
            raise WeightFileError(str(error).replace(str(weights), str(path))) from None


def _configuration(text: bytes) -> tuple[_Layers, Statement]:
    """Return (name, class name) of the model's layers in its order, and what it says of itself."""
    try:
        whole = json.loads(text)
        config = whole["config"]
        layers = tuple((str(x["config"]["name"]), str(x["class_name"])) for x in config["layers"])
        if "spec" in config or "meta" in config:  # our own class
            return layers, Statement.of(config)
        build = whole.get("build_config")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"its config.json describes no functional model ({error})") from None
    return layers, Statement.of_build(build)


def model_layers(model: Any, plan: Plan) -> list[tuple[str, str]]:
    """Return (name, class name) of the plan's layers in the order that Keras saves them."""
    names = {layer.name for layer in plan}
    return [(layer.name, type(layer).__name__) for layer in model.layers if layer.name in names]


def classifier(file: TensorFile) -> tuple[int, ...]:
    """Return (inputs, outputs) of the last dense layer of a `.weights.h5`, or () without one."""
    kernels = {
        int(found[1] or 0): shape
        for path, shape in file.shapes.items()
        if (found := re.fullmatch(r"layers/dense(?:_(\d+))?/vars/0", path)) and len(shape) == 2
    }
    return kernels[max(kernels)] if kernels else ()


def flattened(file: TensorFile) -> int | None:
    """Return what the first dense layer of a `.weights.h5` reads, or None without one."""
    shape = file.shapes.get("layers/dense/vars/0", ())
    return shape[0] if len(shape) == 2 else None


def first_kernel(file: TensorFile) -> tuple[int, ...]:
    """Return the shape of the first convolution's kernel in a `.weights.h5`, or ()."""
    shape = file.shapes.get("layers/conv2d/vars/0", ())
    return shape if len(shape) == 4 else ()


def _paths(file: WeightFile, layers: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    noted = {
        path.removesuffix("/vars"): name
        for path, name in file.group_names.items()
        if re.fullmatch(r"layers/[^/]+/vars", path)
    }
    groups = {name: group for group, name in noted.items()}
    if len(groups) != len(noted):
        raise WeightFileError(f"{file.path}: two of its layers have the same name")
    counts: Counter[str] = Counter()
    known = set()
    for name, kind in layers:
        word = _snake(kind)
        number = counts[word]
        counts[word] += 1
        group = f"layers/{word}" + (f"_{number}" if number else "")
        if groups:  # the order alone does not tell networks of the same shapes apart
            group = groups.get(name, "")
        for position, variable in enumerate(_VARIABLES.get(kind, ())):
            path = f"{group}/vars/{position}"
            if path in file.shapes:
                known.add(path)
                yield f"{name}/{variable}", path
    left = [
        path
        for path in file.shapes
        if path not in known and path.startswith("layers/") and "/seed_generator/" not in path
    ]
    if left:
        left = list(dict.fromkeys(noted.get(path.rsplit("/", 2)[0], path) for path in left))
        raise WeightFileError(
            f"{file.path}: weights of other layers than the network's: {listed(left, 4)}"
        )
