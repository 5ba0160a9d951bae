"""Independent float64 NumPy reference of the CIFAR networks of He et al. 2015.

"Deep Residual Learning for Image Recognition", arXiv:1512.03385, Sec. 4.2, with the shortcut
options of Secs. 3.3 and 4.1. Forward pass, hand-written backward pass and the Caffe form of SGD
with momentum. It uses NumPy alone, and exists to check another implementation's training steps.

Layouts: images (N, H, W, C), kernels (kh, kw, C_in, C_out), dense kernel (C_in, classes).

Parameters are a flat dict of float64 arrays:

    stem_conv/kernel                                stem_norm/{NORM}
    stage{s}_block{b}_conv{1,2}/kernel              stage{s}_block{b}_norm{1,2}/{NORM}
    stage{s}_block{b}_shortcut_conv/kernel          stage{s}_block{b}_shortcut_norm/{NORM}
    head_dense/{kernel,bias}

where NORM is gamma, beta, moving_mean or moving_variance, and s and b count from 1.

Shortcuts: "none" plain network (no shortcut); "A" parameter-free everywhere; "B" projection
where the shape changes, identity elsewhere; "C" projection in every block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Params = Mapping[str, ArrayLike]
Backward = Callable[[Array], Array]  # gradient at a layer's output -> gradient at its input

SHORTCUTS = ("none", "A", "B", "C")
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
STAGES = 3


class Moments(NamedTuple):
    """Batch statistics of one normalisation layer."""

    mean: Array  # (C,)
    variance: Array  # (C,), biased: divided by count
    count: int  # values per channel, N * H * W


class TrainResult(NamedTuple):
    """State after the last step, and the loss before each step's update (without L2 term)."""

    params: dict[str, Array]
    velocities: dict[str, Array]
    losses: list[float]


def conv2d(x: Array, kernel: Array, stride: int) -> tuple[Array, Callable]:
    """Cross-correlation without bias, with symmetric zero padding of k // 2 on all four sides.

    x (N, H, W, I), kernel (k, k, I, O) with odd k -> y (N, ceil(H/stride), ceil(W/stride), O):

        y[n, p, q, o] = sum_{i, j, c} xpad[n, p*stride + i, q*stride + j, c] kernel[i, j, c, o]

    The second result maps dy to (dx, dkernel).
    """
    size, _, _, channels_out = kernel.shape
    pad = size // 2
    batch, height, width, _ = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def window(i: int, j: int) -> tuple[slice, ...]:
        """Select the padded pixels that kernel offset (i, j) meets, (N, rows, columns, I)."""
        return np.s_[:, i : i + stride * rows : stride, j : j + stride * columns : stride]

    offsets = [(i, j) for i in range(size) for j in range(size)]
    y = np.zeros((batch, rows, columns, channels_out))
    for i, j in offsets:
        y += padded[window(i, j)] @ kernel[i, j]

    def backward(dy: Array) -> tuple[Array, Array]:
        dpadded = np.zeros_like(padded)
        dkernel = np.empty_like(kernel)
        for i, j in offsets:
            dkernel[i, j] = np.tensordot(padded[window(i, j)], dy, axes=((0, 1, 2), (0, 1, 2)))
            dpadded[window(i, j)] += dy @ kernel[i, j].T
        return dpadded[:, pad : pad + height, pad : pad + width], dkernel

    return y, backward


def batch_norm(
    x: Array, gamma: Array, beta: Array, epsilon: float
) -> tuple[Array, Callable, Moments]:
    """Normalise by batch statistics (Ioffe & Szegedy 2015, Algorithm 1), x (N, H, W, C).

        xhat = (x - mean) / sqrt(variance + epsilon),   y = gamma * xhat + beta

    with the biased variance. The second result maps dy to (dx, dgamma, dbeta). Differentiating
    through mean and variance as well gives, with E the mean over (N, H, W),

        dx = gamma / sqrt(variance + epsilon) * (dy - E[dy] - xhat * E[dy * xhat])
    """
    axes = (0, 1, 2)
    mean = x.mean(axis=axes)
    variance = np.square(x - mean).mean(axis=axes)
    inverse_std = 1.0 / np.sqrt(variance + epsilon)
    xhat = (x - mean) * inverse_std

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        centred = dy - dy.mean(axis=axes) - xhat * (dy * xhat).mean(axis=axes)
        return gamma * inverse_std * centred, (dy * xhat).sum(axis=axes), dy.sum(axis=axes)

    return gamma * xhat + beta, backward, Moments(mean, variance, x.size // x.shape[-1])


def relu(x: Array) -> tuple[Array, Backward]:
    """max(x, 0), with derivative 0 at 0."""
    return np.maximum(x, 0.0), lambda dy: dy * (x > 0)


def subsample_and_pad(x: Array, stride: int, channels_out: int) -> tuple[Array, Backward]:
    """Option A (Sec. 3.3): take every stride-th pixel and append zero channels.

    x (N, H, W, I) -> (N, ceil(H/stride), ceil(W/stride), channels_out).
    """
    channels_in = x.shape[-1]
    extra = channels_out - channels_in
    y = np.pad(x[:, ::stride, ::stride, :], ((0, 0), (0, 0), (0, 0), (0, extra)))

    def backward(dy: Array) -> Array:
        dx = np.zeros_like(x)
        dx[:, ::stride, ::stride, :] = dy[..., :channels_in]
        return dx

    return y, backward


def softmax_cross_entropy(logits: Array, labels: NDArray[np.integer]) -> tuple[float, Array]:
    """Mean of -log softmax(logits)[label] over the batch, and its gradient (N, classes).

    logits (N, classes), labels (N,); the gradient is (softmax(logits) - onehot(labels)) / N.
    """
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    gradient = np.exp(log_probabilities)
    gradient[rows, labels] -= 1.0
    return float(-log_probabilities[rows, labels].mean()), gradient / len(labels)


@dataclass
class _Pass:
    """One pass through the network; its backward functions fill `gradients` by name."""

    params: dict[str, Array]
    shortcut: str
    epsilon: float
    training: bool
    gradients: dict[str, Array] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def param(self, name: str) -> Array:
        """Look a parameter up, and record that it is used."""
        self.used.add(name)
        return self.params[name]

    def conv(self, name: str, x: Array, stride: int) -> tuple[Array, Backward]:
        """Convolution with the kernel of that name."""
        y, conv_backward = conv2d(x, self.param(f"{name}/kernel"), stride)

        def backward(dy: Array) -> Array:
            dx, self.gradients[f"{name}/kernel"] = conv_backward(dy)
            return dx

        return y, backward

    def norm(self, name: str, x: Array) -> tuple[Array, Backward]:
        """Batch normalisation, by batch statistics in training, else by moving ones."""
        gamma, beta, moving_mean, moving_variance = (self.param(f"{name}/{p}") for p in NORM)
        if not self.training:
            scale = gamma / np.sqrt(moving_variance + self.epsilon)
            return (x - moving_mean) * scale + beta, lambda dy: dy * scale
        y, norm_backward, self.moments[name] = batch_norm(x, gamma, beta, self.epsilon)

        def backward(dy: Array) -> Array:
            dx, dgamma, dbeta = norm_backward(dy)
            self.gradients[f"{name}/gamma"] = dgamma
            self.gradients[f"{name}/beta"] = dbeta
            return dx

        return y, backward

    def conv_norm(self, conv: str, norm: str, x: Array, stride: int) -> tuple[Array, Backward]:
        """Convolution, then batch normalisation (Sec. 3.4), without the activation."""
        z, conv_backward = self.conv(conv, x, stride)
        y, norm_backward = self.norm(norm, z)
        return y, lambda dy: conv_backward(norm_backward(dy))

    def block(self, name: str, x: Array, stride: int) -> tuple[Array, Backward]:
        """Basic block, y = relu(F(x) + shortcut(x)): Eq. (1), or Eq. (2) with a projection."""
        hidden, backward_1 = self.conv_norm(f"{name}_conv1", f"{name}_norm1", x, stride)
        active, backward_relu_1 = relu(hidden)
        total, backward_2 = self.conv_norm(f"{name}_conv2", f"{name}_norm2", active, 1)
        backward_shortcut: Backward | None = None
        if self.shortcut != "none":
            same_shape = x.shape == total.shape
            if self.shortcut == "C" or (self.shortcut == "B" and not same_shape):
                skip, backward_shortcut = self.conv_norm(
                    f"{name}_shortcut_conv", f"{name}_shortcut_norm", x, stride
                )
            elif same_shape:
                skip, backward_shortcut = x, lambda dy: dy
            else:
                skip, backward_shortcut = subsample_and_pad(x, stride, total.shape[-1])
            total = total + skip
        y, backward_relu_2 = relu(total)

        def backward(dy: Array) -> Array:
            dtotal = backward_relu_2(dy)
            dx = backward_1(backward_relu_1(backward_2(dtotal)))
            return dx if backward_shortcut is None else dx + backward_shortcut(dtotal)

        return y, backward

    def head(self, x: Array) -> tuple[Array, Backward]:
        """Global average pooling and dense layer, (N, H, W, C) -> logits (N, classes)."""
        kernel, bias = self.param("head_dense/kernel"), self.param("head_dense/bias")
        pooled = x.mean(axis=(1, 2))

        def backward(dlogits: Array) -> Array:
            self.gradients["head_dense/kernel"] = pooled.T @ dlogits
            self.gradients["head_dense/bias"] = dlogits.sum(axis=0)
            dpooled = dlogits @ kernel.T / (x.shape[1] * x.shape[2])
            return np.broadcast_to(dpooled[:, None, None, :], x.shape)

        return pooled @ kernel + bias, backward

    def network(self, images: Array, blocks: int) -> tuple[Array, Backward]:
        """Whole network of 6 * blocks + 2 layers (Sec. 4.2); raises if a parameter is unused."""
        if self.shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut must be one of {SHORTCUTS}, got {self.shortcut!r}")
        x, backward_stem = self.conv_norm("stem_conv", "stem_norm", images, 1)
        x, backward_relu = relu(x)
        tape = [backward_stem, backward_relu]
        for stage in range(1, STAGES + 1):
            for block in range(1, blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x, backward = self.block(f"stage{stage}_block{block}", x, stride)
                tape.append(backward)
        logits, backward_head = self.head(x)
        if unused := self.params.keys() - self.used:
            raise ValueError(f"parameters that the network does not have: {sorted(unused)}")

        def backward_all(dlogits: Array) -> Array:
            gradient = backward_head(dlogits)
            for step in reversed(tape):
                gradient = step(gradient)
            return gradient

        return logits, backward_all


def _as_float64(params: Params) -> dict[str, Array]:
    """Copy the parameters as float64 arrays, so that the caller's are never written to."""
    return {name: np.array(value, dtype=np.float64) for name, value in params.items()}


def he_normal_std(shape: Sequence[int]) -> float:
    """sqrt(2 / fan_in) for a HWIO or (in, out) shape (He et al., arXiv:1502.01852, Eq. (10))."""
    return math.sqrt(2.0 / math.prod(shape[:-1]))


def loss_and_gradients(
    params: Params,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    blocks: int,
    shortcut: str,
    epsilon: float = 1e-5,
) -> tuple[float, dict[str, Array], dict[str, Moments]]:
    """Training-mode loss (no L2 term), gradients by trainable name, moments by norm layer.

    images (N, H, W, C), integer labels (N,); each gradient has its parameter's shape.
    """
    run = _Pass(_as_float64(params), shortcut, epsilon, training=True)
    logits, backward = run.network(np.asarray(images, dtype=np.float64), blocks)
    loss, dlogits = softmax_cross_entropy(logits, np.asarray(labels))
    backward(dlogits)
    return loss, run.gradients, run.moments


def predict(
    params: Params, images: ArrayLike, *, blocks: int, shortcut: str, epsilon: float = 1e-5
) -> Array:
    """Logits (N, classes) of images (N, H, W, C), normalised by the moving statistics."""
    run = _Pass(_as_float64(params), shortcut, epsilon, training=False)
    return run.network(np.asarray(images, dtype=np.float64), blocks)[0]


def train(
    params: Params,
    batches: Sequence[tuple[ArrayLike, ArrayLike]],
    learning_rates: Sequence[float],
    *,
    blocks: int,
    shortcut: str,
    momentum: float = 0.9,
    l2: float = 1e-4,
    bn_momentum: float = 0.9,
    epsilon: float = 1e-5,
    decay_norm: bool = True,
) -> TrainResult:
    """Take one SGD step per (images, labels) batch, in Caffe's form, from zero velocities.

        g = dloss/dw + l2 * w,   v := momentum * v + learning_rate * g,   w := w - v
        moving := bn_momentum * moving + (1 - bn_momentum) * batch      (biased variance)

    The L2 term reaches every trainable tensor; with decay_norm=False, all but gamma and beta.
    """
    params = _as_float64(params)
    velocities: dict[str, Array] = {}
    losses: list[float] = []
    for (images, labels), learning_rate in zip(batches, learning_rates, strict=True):
        loss, gradients, moments = loss_and_gradients(
            params, images, labels, blocks=blocks, shortcut=shortcut, epsilon=epsilon
        )
        losses.append(loss)
        for name, gradient in gradients.items():
            weight = params[name]
            if decay_norm or not name.endswith(("/gamma", "/beta")):
                gradient = gradient + l2 * weight
            velocity = velocities.get(name, np.zeros_like(weight))
            velocities[name] = momentum * velocity + learning_rate * gradient
            params[name] = weight - velocities[name]
        for layer, batch in moments.items():
            for part in ("mean", "variance"):
                name = f"{layer}/moving_{part}"
                new = (1.0 - bn_momentum) * getattr(batch, part)
                params[name] = bn_momentum * params[name] + new
    return TrainResult(params, velocities, losses)
