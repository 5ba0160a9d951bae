"""One network in training: the step, the evaluation, and every tensor by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import reszoo
from ablations.optimizers import MomentumSGD
from ablations.recipes import Recipe
from reszoo.models import logits_model

EVAL_BATCH = 250


class Trainer:
    """A network, its optimizer, and compiled functions for one step and for evaluation.

    Args:
        network: catalogue name or ResNetSpec, with classes and input shape resolved.
        recipe: the training protocol.
        seed: initial values are a function of (seed, layer name, shape) only.
        strategy: a tf.distribute strategy whose replicas share each batch, or None.
        **overrides: passed to `reszoo.build`.
    """

    def __init__(
        self,
        network: str | reszoo.ResNetSpec,
        recipe: Recipe,
        seed: int,
        strategy: tf.distribute.Strategy | None = None,
        **overrides: Any,
    ) -> None:
        self.recipe = recipe
        self.strategy = strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        with self.strategy.scope():
            self.model = reszoo.build(network, seed=seed, **overrides)
            self._logits = logits_model(self.model)
            self.optimizer = MomentumSGD(
                recipe.learning_rate, recipe.momentum, recipe.l2, recipe.l2_on
            )
            self.optimizer.build(self._logits.trainable_variables)
        self._train = tf.function(self._train_step)
        self._evaluate = tf.function(self._evaluate_step)

    def step(self, images: np.ndarray, labels: np.ndarray, rate: float) -> tf.Tensor:
        """Train on one batch.

        Args:
            images: float32 (batch, height, width, channels).
            labels: int32 (batch,).
            rate: learning rate of this step.

        Returns:
            float32 (2,), still on the device: sum of the cross-entropies, correct predictions,
            both before the update.
        """
        self.optimizer.learning_rate = rate
        if self.replicas == 1:
            return self._train(images, labels)
        share = len(images) // self.replicas

        def part(array: np.ndarray) -> Any:
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(
                    array[context.replica_id_in_sync_group * share :][:share]
                )
            )

        return self._train(part(images), part(labels))

    def _train_step(self, images: Any, labels: Any) -> Any:
        def replica(images: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                logits = self._logits(images, training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                # Gradients of the replicas are summed, so each divides by the whole batch.
                loss = tf.reduce_sum(losses) / self.recipe.batch
            variables = self._logits.trainable_variables
            self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
            return _sums(losses, logits, labels)

        if self.replicas == 1 and not isinstance(self.strategy, tf.distribute.MirroredStrategy):
            return replica(images, labels)
        sums = self.strategy.run(replica, args=(images, labels))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def evaluate(self, images: Any) -> np.ndarray:
        """Return the logits (n, classes) of float32 images (n, h, w, c), in inference mode."""
        parts = []
        for start in range(0, len(images), EVAL_BATCH):
            batch = images[start : start + EVAL_BATCH]
            missing = EVAL_BATCH - len(batch)
            if missing:  # one shape, so that the function is traced once
                batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
            parts.append(self._evaluate(batch).numpy()[: EVAL_BATCH - missing])
        return np.concatenate(parts)

    def _evaluate_step(self, images: Any) -> Any:
        return self._logits(images, training=False)

    def variables(self) -> Iterator[tuple[str, keras.Variable]]:
        """Yield every tensor of the model, then of the optimizer, by structural name."""
        for variable in self.model.variables:
            yield variable.path, variable
        for variable in self.optimizer.variables:
            yield f"optimizer/{variable.path.split('/', 1)[-1]}", variable

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the value of every tensor by name."""
        return {name: np.asarray(variable) for name, variable in self.variables()}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """Set every tensor.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape.
        """
        mine = dict(self.variables())
        if set(mine) != set(tensors):
            odd = sorted(set(mine) ^ set(tensors))
            raise ValueError(f"the checkpoint's tensors are not this network's: {odd[:3]}")
        for name, variable in mine.items():
            if tuple(variable.shape) != tensors[name].shape:
                raise ValueError(f"tensor {name} has shape {tensors[name].shape} in the checkpoint")
            variable.assign(tensors[name])


def _sums(losses: Any, logits: Any, labels: Any) -> Any:
    correct = tf.equal(tf.argmax(logits, 1, tf.int32), labels)
    return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(tf.cast(correct, tf.float32))])


def tensor_digests(model: keras.Model) -> dict[str, dict[str, Any]]:
    """Return shape and SHA-256 (of dtype, shape and bytes) of every tensor of a model, by name."""
    digests = {}
    for variable in model.variables:
        value = np.asarray(variable)
        head = f"{value.dtype.str} {value.shape}".encode()
        digests[variable.path] = {
            "shape": list(value.shape),
            "sha256": hashlib.sha256(head + value.tobytes()).hexdigest(),
        }
    return digests
