"""The model class that carries its spec, and help for very deep graphs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import keras

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


@keras.saving.register_keras_serializable("reszoo")
class ResNet(keras.Model):
    """A functional Keras model with `.spec`, the ResNetSpec it was built from.

    Made by `reszoo.build`; saved and loaded as any Keras model, the spec included.
    """

    def __init__(self, *args: Any, spec: ResNetSpec | dict[str, Any] | None = None, **kwargs: Any):
        # Here, and not only in build: clone_model and loading come this way too.
        with deep_graph(20_000):
            super().__init__(*args, **kwargs)
        self._spec = ResNetSpec.from_dict(spec) if isinstance(spec, dict) else spec

    @property
    def spec(self) -> ResNetSpec | None:
        """The description this model was built from."""
        return self._spec

    def get_config(self) -> dict[str, Any]:
        """Return the config of a functional model, and the spec."""
        config = super().get_config()
        if self._spec is not None:
            config["spec"] = self._spec.to_dict()
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ResNet:
        """Rebuild the model, however deep."""
        with deep_graph(len(config.get("layers", ()))):
            return super().from_config(dict(config), custom_objects=custom_objects)
