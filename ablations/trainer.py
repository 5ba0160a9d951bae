"""One network in training: the step, the evaluation, and every tensor by name."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import reszoo
from ablations import environment
from ablations.optimizers import MomentumSGD, set_sub_batch
from ablations.recipes import Recipe
from reszoo.models import logits_model

EVAL_BATCH = 250
#: Of TensorFlow's build: what computes on a GPU.
_LIBRARIES = ("cuda_version", "cudnn_version")


def make_strategy(name: str, replicas: int, gpus: bool) -> tf.distribute.Strategy | None:
    """Return the strategy of a cell; must run before TensorFlow touches a device.

    Args:
        name: "none" or "mirrored".
        replicas: devices that share each batch.
        gpus: False: logical devices of the processor.

    Raises:
        ValueError: there are fewer devices than replicas.
    """
    kind = "GPU" if gpus else "CPU"
    physical = tf.config.list_physical_devices(kind)
    if gpus:
        if len(physical) < replicas:
            raise ValueError(f"{replicas} GPUs were asked for, TensorFlow finds {len(physical)}")
        for device in physical:
            tf.config.experimental.set_memory_growth(device, True)
    elif replicas > 1:
        tf.config.set_logical_device_configuration(
            physical[0], [tf.config.LogicalDeviceConfiguration()] * replicas
        )
    if name == "none":
        return None
    return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(replicas)])


class Trainer:
    """A network, its optimizer, and compiled functions for one step and for evaluation.

    Args:
        network: catalogue name or ResNetSpec, with classes and input shape resolved.
        recipe: the training protocol.
        seed: initial values are a function of (seed, layer name, shape) only.
        strategy: a tf.distribute strategy whose replicas share each batch, or None.
        jit: compile the training step with XLA (not under a strategy).
        **overrides: passed to `reszoo.build`.
    """

    def __init__(
        self,
        network: str | reszoo.ResNetSpec,
        recipe: Recipe,
        seed: int,
        strategy: tf.distribute.Strategy | None = None,
        jit: bool = False,
        **overrides: Any,
    ) -> None:
        self.recipe = recipe
        self.strategy = strategy
        self.replicas = strategy.num_replicas_in_sync if strategy else 1
        if recipe.batch % self.replicas:
            raise ValueError(f"batch {recipe.batch} is not divisible by {self.replicas} replicas")
        with strategy.scope() if strategy else contextlib.nullcontext():
            self.model = reszoo.build(network, seed=seed, **overrides)
            self._logits = logits_model(self.model)
            self.optimizer = MomentumSGD(
                recipe.learning_rate, recipe.momentum, recipe.l2, recipe.l2_on
            )
            self.optimizer.build(self._logits.trainable_variables)
        if recipe.bn_batch:
            set_sub_batch(self.model, recipe.bn_batch)
        self._widest = 0
        self._train = tf.function(self._train_step, jit_compile=jit or None)
        self._evaluate = tf.function(lambda images: self._logits(images, training=False))

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
        return self._train(self._share(images), self._share(labels))

    def _share(self, array: np.ndarray) -> Any:
        """Return a batch divided over the replicas."""
        if self.strategy is None:
            return tf.convert_to_tensor(array)
        share = len(array) // self.replicas
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[context.replica_id_in_sync_group * share :][:share])
        )

    def _train_step(self, images: Any, labels: Any) -> Any:
        def replica(images: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                logits = self._logits(images, training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                # Gradients of the replicas are summed, so each divides by the whole batch.
                loss = tf.reduce_sum(losses) / self.recipe.batch
            variables = self._logits.trainable_variables
            self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
            correct = tf.equal(tf.argmax(logits, 1, tf.int32), labels)
            return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(tf.cast(correct, tf.float32))])

        if self.strategy is None:
            return replica(images, labels)
        sums = self.strategy.run(replica, args=(images, labels))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def population_statistics(self, groups: Iterable[np.ndarray]) -> int:
        """Replace BN's moving averages by the mean of the per-batch moments; weights stay.

        Every layer normalises with the moments of its own batch meanwhile, as in training.

        Args:
            groups: float32 (n, height, width, channels), each as many images as BN sees at once in
                training. Replicas take a group each; how many there are does not matter.

        Returns:
            How many groups there were; 0 for networks without batch normalisation, which keep no
            statistics.
        """
        norms = [x for x in self.model.layers if isinstance(x, keras.layers.BatchNormalization)]
        if not norms:
            return 0
        moving = [v for layer in norms for v in (layer.moving_mean, layer.moving_variance)]
        sums = [np.zeros(v.shape, np.float64) for v in moving]
        kept = [(layer, layer.momentum) for layer in norms]
        count = 0
        for layer in norms:
            layer.momentum = 0.0  # the moving averages then hold the moments of the last batch

        def forward(images: Any) -> None:
            self._logits(images, training=True)

        def run(images: Any) -> None:
            if self.strategy is None:
                forward(images)
            else:
                self.strategy.run(forward, args=(images,))

        try:
            function = tf.function(run)
            for batch in _batched(groups, self.replicas):
                # Replicas without a group of their own repeat the last, which is not counted.
                images = [*batch] + [batch[-1]] * (self.replicas - len(batch))
                function(self._share(np.concatenate(images)))
                for total, variable in zip(sums, moving, strict=True):
                    for value in self._local_values(variable)[: len(batch)]:
                        total += value
                count += len(batch)
        finally:
            for layer, momentum in kept:
                layer.momentum = momentum
        if not count:
            raise ValueError("population statistics need at least one group")
        for total, variable in zip(sums, moving, strict=True):
            variable.assign((total / count).astype(np.float32))
        return count

    def _local_values(self, variable: keras.Variable) -> list[np.ndarray]:
        if self.strategy is None:
            return [np.asarray(variable, np.float64)]
        results = self.strategy.experimental_local_results(variable.value)
        return [np.asarray(result.numpy(), np.float64) for result in results]

    def evaluate(self, images: Any) -> np.ndarray:
        """Return the logits (n, classes) of float32 images (n, h, w, c), in inference mode."""
        parts = []
        for start in range(0, len(images), EVAL_BATCH):
            batch = images[start : start + EVAL_BATCH]
            # A short last batch is padded to the widest seen, so that tracing happens once.
            self._widest = max(self._widest, len(batch))
            missing = self._widest - len(batch)
            if missing:
                batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
            parts.append(self._evaluate(batch).numpy()[: self._widest - missing])
        return np.concatenate(parts)

    def variables(self) -> dict[str, keras.Variable]:
        """Return every tensor of the model, then of the optimizer, by structural name."""
        optimizer = {
            f"optimizer/{variable.path.split('/', 1)[-1]}": variable
            for variable in self.optimizer.variables
        }
        return {**named_variables(self.model), **optimizer}

    def machine(self) -> dict[str, Any]:
        """Return what this process trains on, as it finds it and not as it was planned."""
        gpus = tf.config.list_physical_devices("GPU")
        build = tf.sysconfig.get_build_info()
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return {
            **(
                {
                    "gpus": sorted(str(detail.get("device_name")) for detail in details),
                    **{name: str(build[name]) for name in _LIBRARIES if name in build},
                }
                if gpus
                else {"device": environment.cpu_model()}
            ),
            "threads": int(os.environ.get("TF_NUM_INTRAOP_THREADS", "0")),
            "strategy": "mirrored" if self.strategy else "none",
            "replicas": self.replicas,
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the value of every tensor by name."""
        return {name: np.asarray(variable) for name, variable in self.variables().items()}

    def weights(self) -> dict[str, np.ndarray]:
        """Return a copy of every tensor of the model by name."""
        return {name: np.array(v) for name, v in named_variables(self.model).items()}

    def restore(self, tensors: dict[str, np.ndarray]) -> None:
        """Set every tensor.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape.
        """
        _assign(self.variables(), tensors)

    def restore_weights(self, tensors: dict[str, np.ndarray]) -> None:
        """Set every tensor of the model; raises as `restore`."""
        _assign(named_variables(self.model), tensors)


def _assign(mine: dict[str, keras.Variable], tensors: dict[str, np.ndarray]) -> None:
    if set(mine) != set(tensors):
        odd = sorted(set(mine) ^ set(tensors))
        raise ValueError(f"the checkpoint's tensors are not this network's: {odd[:3]}")
    for name, variable in mine.items():
        if tuple(variable.shape) != tensors[name].shape:
            raise ValueError(f"tensor {name} has shape {tensors[name].shape} in the checkpoint")
        variable.assign(tensors[name])


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return every tensor of a model by structural name, states of random generators included.

    Keras numbers the generators of a process, so that what it calls `seed_generator_2` depends on
    what was built before; here they bear the name of their layer.

    Raises:
        ValueError: two tensors have one name.
    """
    owners = {
        id(generator.state): f"{layer.name}/seed_generator_state"
        for layer in model.layers
        if (generator := getattr(layer, "seed_generator", None)) is not None
    }
    variables = {owners.get(id(v), v.path): v for v in model.variables}
    if len(variables) != len(model.variables):
        raise ValueError(f"two tensors of {model.name} have one name")
    return variables


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def tensor_digests(model: keras.Model) -> dict[str, dict[str, Any]]:
    """Return shape and SHA-256 (of dtype, shape and bytes) of every tensor of a model, by name."""
    digests = {}
    for name, variable in named_variables(model).items():
        value = np.asarray(variable)
        head = f"{value.dtype.str} {value.shape}".encode()
        digests[name] = {
            "shape": list(value.shape),
            "sha256": hashlib.sha256(head + value.tobytes()).hexdigest(),
        }
    return digests
