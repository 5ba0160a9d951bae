"""Batch normalisation through TensorFlow's fused kernel."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("reszoo")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, fused on TensorFlow; the same mathematics and weights.

    Keras 3 computes moments and normalisation as separate operations, which no graph optimiser
    fuses. This layer runs FusedBatchNormV3 on maps (N, H, W, C) and falls back to Keras' own code
    for other ranks, axes, masks, synchronised or renormalised use, and other backends.

    The moving variance averages the *biased* batch variance, as in Keras; the kernel returns it
    times n/(n-1) (Bessel), which is undone.

    Args:
        *args, **kwargs: those of `keras.layers.BatchNormalization`.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise a map (N, H, W, C) over N, H and W (arXiv 1502.03167, algorithm 1)."""
        if not self._fuses(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        train = bool(training and self.trainable)
        # float16 and bfloat16 maps are normalised with float32 statistics by the kernel itself.
        x = tf.cast(inputs, self.compute_dtype)
        channels = self.moving_mean.shape[0]
        gamma = self.gamma.value if self.scale else tf.ones([channels])
        beta = self.beta.value if self.center else tf.zeros([channels])
        moving_mean = tf.convert_to_tensor(self.moving_mean.value)
        moving_variance = tf.convert_to_tensor(self.moving_variance.value)
        empty = tf.constant([], tf.float32)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=empty if train else moving_mean,
            variance=empty if train else moving_variance,
            epsilon=self.epsilon,
            is_training=train,
        )
        if train:
            count = tf.cast(tf.size(x), tf.float32) / channels
            self.moving_mean.assign(moving_mean * self.momentum + mean * (1.0 - self.momentum))
            variance = variance * self._variance_factor(count)
            self.moving_variance.assign(
                moving_variance * self.momentum + variance * (1.0 - self.momentum)
            )
        return outputs

    def _fuses(self, inputs: Any, mask: Any) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and mask is None
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and not (self.synchronized or self.renorm)
            and self.compute_dtype in ("float32", "float16", "bfloat16")
        )

    @staticmethod
    def _variance_factor(count: Any) -> Any:
        """Return what turns the kernel's variance into the biased one, for `count` values."""
        return (count - 1.0) / count
