"""Files that Keras wrote of our models: `.weights.h5` and `.keras`, read without Keras' loader.

Keras addresses a layer's variables by the class and position of the layer
(`layers/conv2d_3/vars/0`) and notes its name beside them; here they get the layers' names back.
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
from reszoo.plans import Plan
from reszoo.preprocessing import LABEL_SETS, Preprocessing
from reszoo.weights.conversion import Array, TensorFile, listed
from reszoo.weights.readers import WeightFile, WeightFileError, open_weights
from reszoo.weights.readers._base import Refused, Source, refusing
from reszoo.weights.readers._zip import Archive

_CONFIG_LIMIT = 64 * 2**20
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
class KerasArchive:
    """What a `.keras` file says besides its weights.

    Attributes:
        layers: (name, class name) in the model's order.
        spec: fields of the spec, or None (VGG, portable models, models of others).
        meta: see reszoo.layers.ResNet.
    """

    layers: tuple[tuple[str, str], ...]
    spec: dict[str, Any] | None
    meta: dict[str, Any]

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


class NamedWeights:
    """An open file of ours under names `layer/variable`."""

    def __init__(self, file: WeightFile, layers: Sequence[tuple[str, str]]) -> None:
        self._file = file
        self._paths = dict(_paths(file, layers))
        self.shapes = {name: file.shapes[path] for name, path in self._paths.items()}

    def read(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """Return one variable, refused unless its declared shape is `shape`."""
        return self._file.read(self._paths[name], shape)


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[tuple[WeightFile | NamedWeights, KerasArchive | None]]:
    """Open any weight file; of a `.keras` file the tensors are called `layer/variable`.

    Raises:
        WeightFileError: it is damaged, hostile or of no known kind.
    """
    if path.suffix == ".keras":
        with _open_archive(path) as (archive, file):
            yield NamedWeights(file, archive.layers), archive
    else:
        with open_weights(path) as file:
            yield file, None


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[tuple[KerasArchive, WeightFile]]:
    """Open a `.keras` file: its configuration as JSON, its weights through the HDF5 reader."""
    with tempfile.TemporaryDirectory(prefix="reszoo-") as scratch:
        weights = Path(scratch) / "model.weights.h5"

        def unpack() -> KerasArchive:
            source = Source(path)
            try:
                archive = Archive(source)
                members = archive.members
                for name in ("config.json", "model.weights.h5"):
                    if name not in members:
                        raise Refused(f"no Keras model file: it has no {name}")
                config = archive.read(members["config.json"])
                if config.size > _CONFIG_LIMIT:
                    raise Refused("its config.json is too large")
                weights.write_bytes(archive.read(members["model.weights.h5"]).tobytes())
                return _configuration(config.tobytes())
            finally:
                source.close()

        found = refusing(str(path), unpack)
        try:
            with open_weights(weights) as file:
                yield found, file
        except WeightFileError as error:
            raise WeightFileError(str(error).replace(str(weights), str(path))) from None


def _configuration(text: bytes) -> KerasArchive:
    try:
        config = json.loads(text)["config"]
        layers = tuple((str(x["config"]["name"]), str(x["class_name"])) for x in config["layers"])
        spec, meta = config.get("spec"), config.get("meta")
    except (KeyError, TypeError, RecursionError) as error:
        raise Refused(f"its config.json describes no functional model ({error})") from None
    return KerasArchive(
        layers, spec if isinstance(spec, dict) else None, meta if isinstance(meta, dict) else {}
    )


def model_layers(model: Any, plan: Plan) -> list[tuple[str, str]]:
    """Return (name, class name) of the plan's layers in the order that Keras saves them."""
    names = {layer.name for layer in plan}
    return [(layer.name, type(layer).__name__) for layer in model.layers if layer.name in names]


def classifier_outputs(file: TensorFile) -> int | None:
    """Return the outputs of the last dense layer of a `.weights.h5`, or None without one."""
    biases = {
        int(found[1] or 0): shape
        for path, shape in file.shapes.items()
        if (found := re.fullmatch(r"layers/dense(?:_(\d+))?/vars/1", path)) and len(shape) == 1
    }
    return biases[max(biases)][0] if biases else None


def channels(file: TensorFile) -> int | None:
    """Return the channels that the first convolution of a `.weights.h5` reads."""
    shape = file.shapes.get("layers/conv2d/vars/0", ())
    return shape[2] if len(shape) == 4 else None


def _paths(file: WeightFile, layers: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    from keras.src.utils.naming import to_snake_case

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
        word = to_snake_case(kind)
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
