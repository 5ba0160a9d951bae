"""Batch normalisation through TensorFlow's fused kernel."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("reszoo")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, fused on TensorFlow; the same mathematics and weights.

    Keras 3 computes moments and normalisation as separate operations, which no graph optimiser
    fuses. This layer runs FusedBatchNormV3 on maps (N, H, W, C), or (N, C, H, W) with axis 1, and
    falls back to Keras' own code for other ranks, axes, masks, synchronised or renormalised use,
    and other backends.

    The moving variance averages the *biased* batch variance, as in Keras; the kernel returns it
    times n/(n-1) (Bessel), which is undone.

    Attributes:
        sub_batch: images over which statistics are taken in training when a device holds more: the
            batch is normalised in groups of so many images, as on several GPUs, and the first
            group's statistics enter the moving averages, as the first replica's do under
            `tf.distribute.MirroredStrategy`. 0: the whole batch. Set it before the first training
            step; it is not saved, because it does not matter once the model is trained.

    Args:
        *args: those of `keras.layers.BatchNormalization`.
        **kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sub_batch = 0

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise a map over all axes but the channels' (arXiv 1502.03167, algorithm 1)."""
        train = bool(training and self.trainable)
        if not self._fuses(inputs, mask):
            if train and self.sub_batch:
                raise ValueError("sub_batch needs TensorFlow, and maps of rank 4")
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        # float16 and bfloat16 maps are normalised with float32 statistics by the kernel itself.
        x = tf.cast(inputs, self.compute_dtype)
        if not train:
            return self._fused(x, train=False)[0]
        whole = not self.sub_batch or x.shape[0] == self.sub_batch
        first = x if whole else x[: self.sub_batch]
        outputs, mean, variance = self._fused(first, train=True)
        count = tf.cast(tf.size(first), tf.float32) / mean.shape[0]
        variance = variance * self._variance_factor(count)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving.value * self.momentum + value * (1.0 - self.momentum))
        return outputs if whole else tf.concat([outputs, self._other_groups(x)], 0)

    def _other_groups(self, x: Any) -> Any:
        """Return the groups after the first, each normalised with its own statistics."""
        import tensorflow as tf

        size, batch = self.sub_batch, x.shape[0]
        if batch is not None:
            parts = [x[start : start + size] for start in range(size, batch, size)]
            outputs = [self._fused(part, train=True)[0] for part in parts]
            return tf.concat(outputs, 0) if outputs else x[size:]
        # The size of the batch is unknown while tracing (`fit` with a short last batch).
        full = tf.shape(x)[0] // size * size
        grouped = tf.reshape(x[size:full], [-1, size, *x.shape[1:]])
        outputs = tf.map_fn(lambda part: self._fused(part, train=True)[0], grouped)
        rest = tf.cond(
            tf.shape(x)[0] > tf.maximum(full, size),
            lambda: self._fused(x[full:], train=True)[0],
            lambda: x[:0],
        )
        return tf.concat([tf.reshape(outputs, [-1, *x.shape[1:]]), rest], 0)

    def _fused(self, x: Any, train: bool) -> tuple[Any, Any, Any]:
        """Return the kernel's output, and the mean and Bessel-corrected variance that it used."""
        import tensorflow as tf

        channels = self.moving_mean.shape[0]
        empty = tf.constant([], tf.float32)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma.value if self.scale else tf.ones([channels]),
            offset=self.beta.value if self.center else tf.zeros([channels]),
            mean=empty if train else self.moving_mean.value,
            variance=empty if train else self.moving_variance.value,
            epsilon=self.epsilon,
            data_format="NCHW" if self.axis == 1 else "NHWC",
            is_training=train,
        )
        return outputs, mean, variance

    def _fuses(self, inputs: Any, mask: Any) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3, 1)
            and not (self.synchronized or self.renorm)
            and self.compute_dtype in ("float32", "float16", "bfloat16")
            and self.variable_dtype == "float32"
        )

    @staticmethod
    def _variance_factor(count: Any) -> Any:
        """Return what turns the kernel's variance into the biased one, for `count` values."""
        return (count - 1.0) / count
