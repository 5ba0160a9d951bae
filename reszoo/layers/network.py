"""The model class that carries its spec and what belongs to its weights."""

from __future__ import annotations

import contextlib
import copy
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras

from reszoo.errors import SpecError, unknown
from reszoo.labels import decode, pairs
from reszoo.preprocessing import Preprocessing
from reszoo.specs import ResNetSpec


@contextlib.contextmanager
def deep_graph(layers: int) -> Iterator[None]:
    """Raise Python's recursion limit for a functional graph of `layers` layers.

    Keras walks a graph recursively when it makes or loads a functional model, about one frame a
    layer; plain nets pass the default limit of 1,000 from some 350 weighted layers. Since
    Python 3.11 such calls do not use the C stack, so the limit can rise safely.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 2000 + 4 * layers))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def adopt_policy(model: keras.Model) -> None:
    """Give a functional model the dtype policy of its layers.

    Keras gives it the global one, and scales the losses of float16 only where the model's own
    policy is "mixed_float16".
    """
    policies = [layer.dtype_policy for layer in model.layers if layer.weights]
    if policies:
        model.dtype_policy = policies[-1]


@keras.saving.register_keras_serializable("reszoo")
class ResNet(keras.Model):
    """A functional Keras model with its spec, and the preprocessing and labels of its weights.

    Made by `reszoo.build` (VGG too, whose spec is None); saved, loaded, copied and pickled as any
    Keras model, all of that included. `keras.models.clone_model` makes a model without them;
    `ResNet.from_config(model.get_config())` keeps them.

    Args:
        *args: those of a functional `keras.Model`.
        spec: what the model was built from.
        meta: JSON types: "network" (the name of one without a spec), "maps" (layer, stride and
            channels of each endpoint), "outputs" (indices into it of a features_only model),
            "data_format", "preprocessing", "in_graph", "labels", "weights" (where they came from,
            their licence), "folded" (see `reszoo.fold_batch_norm`).
        **kwargs: likewise.
    """

    def __init__(
        self,
        *args: Any,
        spec: ResNetSpec | Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        # Here, and not only in build: clone_model and loading come this way too.
        with deep_graph(20_000):
            super().__init__(*args, **kwargs)
        self._spec = ResNetSpec.from_dict(spec) if isinstance(spec, Mapping) else spec
        # Not a dict attribute: Keras would track and walk it.
        self._meta = MappingProxyType(dict(meta or {}))
        adopt_policy(self)

    @property
    def spec(self) -> ResNetSpec | None:
        """The description this model was built from."""
        return self._spec

    @property
    def meta(self) -> Mapping[str, Any]:
        """What travels with the model in its config (see the class)."""
        return self._meta

    def update_meta(self, **values: Any) -> None:
        """Add to `meta`; JSON types only."""
        self._meta = MappingProxyType({**self._meta, **values})

    # Groups of layers and maps

    @property
    def stages(self) -> Mapping[str, list[keras.layers.Layer]]:
        """Layer groups in order: "stem", "stage1", …, "head"; for freezing and learning rates.

        The last norm of pre-activation nets belongs to the last stage. Layers that `input_tensor`
        brought along belong to the stem.
        """
        groups: dict[str, list[keras.layers.Layer]] = {}
        last = "stem"
        for layer in self.layers:
            match = re.match(r"(stage\d+|head)_", layer.name)
            group = match[1] if match else "stem"
            if group.startswith("stage"):
                last = group
            elif layer.name in ("head_norm", "head_relu"):
                group = last
            groups.setdefault(group, []).append(layer)
        return MappingProxyType(groups)

    def freeze(self, *groups: str) -> None:
        """Freeze layer groups, or all but the head without arguments.

        Their weights and batch-normalisation statistics then stay as they are in `fit`. Compile
        afterwards, as after every change of `trainable`.

        Raises:
            SpecError: a group that `stages` does not have.
        """
        self._set_trainable(groups or [name for name in self.stages if name != "head"], False)

    def unfreeze(self, *groups: str) -> None:
        """Let layer groups learn again, or all without arguments. Compile afterwards.

        Raises:
            SpecError: a group that `stages` does not have.
        """
        self._set_trainable(groups or list(self.stages), True)

    def _set_trainable(self, groups: Iterable[str], value: bool) -> None:
        stages = self.stages
        for group in groups:
            if not isinstance(group, str) or group not in stages:
                raise SpecError(unknown("layer group", group, stages))
            for layer in stages[group]:
                layer.trainable = value

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """One entry a map, as timm: index, layer name, stride (pixels) and channels.

        The outputs of a features_only model in their order; of other models every endpoint.
        """
        maps = self._meta.get("maps", ())
        wanted = self._meta.get("outputs")
        indices = range(len(maps)) if wanted is None else wanted
        return [
            {"index": i, "name": maps[i][0], "stride": maps[i][1], "channels": maps[i][2]}
            for i in indices
        ]

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """{"P3": layer name, …}: the last map of each stride 2^n (keras-cv's contract)."""
        names = {layer.name for layer in self.layers}
        return {
            f"P{int(math.log2(stride))}": name
            for name, stride, _ in self._meta.get("maps", ())
            if name in names
        }

    @property
    def pyramid_outputs(self) -> dict[str, Any]:
        """{"P3": Keras tensor, …} (keras-hub's contract)."""
        return {key: self.get_layer(name).output for key, name in self.pyramid_level_inputs.items()}

    # Images and predictions

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The input that the weights were trained for; None if unknown. May be set."""
        values = self._meta.get("preprocessing")
        return None if values is None else Preprocessing.from_dict(values)

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing | None) -> None:
        if value is not None and not isinstance(value, Preprocessing):
            raise SpecError(f"preprocessing takes a reszoo.Preprocessing or None, not {value!r}")
        old = self.preprocessing
        if self._meta.get("in_graph") and (
            value is None or old is None or value.affine != old.affine
            or value.channel_order != old.channel_order
        ):  # fmt: skip
            raise SpecError(
                f"{self.name} normalises in its graph: only sizes, crop and interpolation of its "
                "preprocessing can be set"
            )
        self.update_meta(preprocessing=None if value is None else value.to_dict())

    @property
    def labels(self) -> list[tuple[str, str]] | None:
        """(identifier, name) of each class; None if unknown.

        May be set to such pairs, to names, or to the name of a set of reszoo.labels.labels;
        SpecError unless there is one for each class.
        """
        value = self._meta.get("labels")
        return None if value is None else pairs(value)

    @labels.setter
    def labels(self, value: Any) -> None:
        if value is not None:
            known = pairs(value)
            head = next((layer for layer in self.layers if layer.name == "head_dense"), None)
            if head is not None and head.units != len(known):
                raise SpecError(
                    f"labels: {len(known)} are given, but {self.name} has {head.units} classes"
                )
            value = str(value) if isinstance(value, str) else [list(pair) for pair in known]
        self.update_meta(labels=value)

    def preprocess_input(self, images: Any, resize: bool | None = None) -> Any:
        """Return network input of images, as the weights were evaluated.

        Args:
            images: a batch (N, H, W, C), or a list of arrays or PIL images of any size; pixels of
                0..255 (see Preprocessing.normalize).
            resize: resize the shorter side and crop the centre to the evaluation size; None: only
                for lists and PIL images.

        Returns:
            float32 (N, H, W, C), or (N, C, H, W) for a channels_first model. Where preprocessing
            is in the graph, the pixels are resized and not normalised.

        Raises:
            SpecError: the preprocessing is not known, these are no images, or their pixels are not
                in 0..255.
        """
        known = self.preprocessing
        if known is None:
            raise SpecError(
                f"{self.name} has no known preprocessing: it comes with published weights; set "
                "model.preprocessing = reszoo.Preprocessing(...) for your own"
            )
        in_graph = self._meta.get("in_graph")
        batch = (known.pixels if in_graph else known)(images, resize=resize)
        if self._meta.get("data_format") == "channels_first":
            batch = keras.ops.moveaxis(batch, -1, -3)
        return batch

    def decode_predictions(self, predictions: Any, top: int = 5) -> list[list[tuple[Any, ...]]]:
        """Return for each image its `top` classes as (identifier, name, score), best first.

        Args:
            predictions: array or tensor (N, classes) of integers or floats.
            top: how many.

        Raises:
            SpecError: the labels are not known, the shape does not fit them, or the scores are no
                numbers.
        """
        known = self.labels
        if known is None:
            raise SpecError(
                f"{self.name} has no known labels: set model.labels = [names of the classes]"
            )
        return decode(predictions, known, top=top)

    # Saving

    def get_config(self) -> dict[str, Any]:
        """Return the config of a functional model, the spec and what belongs to the weights."""
        config = super().get_config()
        if self._spec is not None:
            config["spec"] = self._spec.to_dict()
        if self._meta:
            config["meta"] = copy.deepcopy(dict(self._meta))
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ResNet:
        """Rebuild the model, however deep."""
        with deep_graph(len(config.get("layers", ()))):
            return super().from_config(dict(config), custom_objects=custom_objects)
