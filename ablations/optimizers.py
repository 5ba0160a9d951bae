"""SGD as the paper means it: Caffe's momentum, and L2 added to the gradient."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ablations.recipes import Recipe, RecipeError
from reszoo.layers import BatchNormalization


@keras.saving.register_keras_serializable("ablations")
class MomentumSGD(keras.optimizers.SGD):
    """SGD with momentum and coupled L2: g := dL/dw + l2 w; v := m v + rate g; w := w - v.

    Keras' `weight_decay` is decoupled from the gradient, which with momentum 0.9 decays about ten
    times less than the paper's; `keras.regularizers.L2(x)` has the gradient 2 x w. On TensorFlow
    the update runs as one fused kernel a tensor instead of five operations.

    Args:
        learning_rate: a float or a Keras schedule.
        momentum: m above.
        l2: see above.
        l2_on: "all" trainable tensors, or only "kernels" (convolution and dense weights).
        **kwargs: those of `keras.optimizers.SGD`, except nesterov and weight_decay.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        l2: float = 0.0,
        l2_on: str = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, **kwargs)
        self.l2 = float(l2)
        self.l2_on = l2_on

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one tensor and its velocity."""
        if self.l2 and (self.l2_on == "all" or _is_kernel(variable)):
            gradient = gradient + keras.ops.cast(self.l2, gradient.dtype) * _value(variable)
        if keras.backend.backend() != "tensorflow" or self.nesterov or not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        slot = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=_handle(variable),
            accum=_handle(slot),
            lr=tf.cast(learning_rate, gradient.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, gradient.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config.pop("nesterov")
        return {**config, "l2": self.l2, "l2_on": self.l2_on}


def _is_kernel(variable: Any) -> bool:
    path = getattr(variable, "path", None) or variable.name
    return path.split(":")[0].endswith("kernel")


def _value(variable: Any) -> Any:
    return variable.value if hasattr(variable, "path") else variable


def _handle(variable: Any) -> Any:
    """Return the resource of a Keras variable, TF variable, or this replica's part of one."""
    import tensorflow as tf

    inner = variable.value if hasattr(variable, "path") else variable
    if isinstance(inner, tf.Variable):
        return inner.handle
    # Inside strategy.extended.update the variable may be mirrored: take this device's component.
    return inner._get().handle if hasattr(inner, "_get") else inner.handle


@keras.saving.register_keras_serializable("ablations")
class RecipeSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A recipe's learning rate as a Keras schedule.

    Args:
        recipe: fields of the Recipe.
        steps: in all.
    """

    def __init__(self, recipe: dict[str, Any], steps: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.steps = steps
        protocol = Recipe.from_dict(recipe)
        self._rates = np.array([protocol.rate(step, steps) for step in range(steps)], np.float32)

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step."""
        index = keras.ops.clip(keras.ops.cast(step, "int32"), 0, self.steps - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self._rates), index)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"recipe": self.recipe, "steps": self.steps}


def compile_model(recipe: Recipe, model: keras.Model, images: int) -> keras.Model:
    """Compile a model for `fit`; see `Recipe.compile`."""
    if recipe.warmup_rate:
        raise RecipeError(
            f"recipe {recipe.name} warms up until the training error falls, which `fit` cannot "
            "schedule; use warmup_rate=0, or ablations.run_grid"
        )
    if not recipe.iterations and not images:
        raise RecipeError(f"recipe {recipe.name} counts epochs: give images=len(training set)")
    schedule = RecipeSchedule(recipe.to_dict(), recipe.steps(images))
    activation = getattr(model.layers[-1], "activation", None)
    if activation not in (None, keras.activations.linear, keras.activations.softmax):
        raise RecipeError(
            f"the model ends in {activation.__name__}; the paper's loss takes softmax or logits"
        )
    model.compile(
        MomentumSGD(schedule, recipe.momentum, recipe.l2, recipe.l2_on),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=activation is not keras.activations.softmax
        ),
        metrics=["accuracy"],
    )
    if recipe.bn_batch:
        set_sub_batch(model, recipe.bn_batch)
    return model


def set_sub_batch(model: keras.Model, images: int) -> None:
    """Let every batch normalisation take its statistics over groups of `images` in training."""
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            layer.sub_batch = images
        elif isinstance(layer, keras.layers.BatchNormalization):
            raise RecipeError(
                f"recipe.bn_batch needs reszoo's batch normalisation; layer {layer.name} is "
                "Keras' own (portable=False builds it)"
            )
