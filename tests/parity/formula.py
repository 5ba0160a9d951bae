"""Weights and images by formula, and the stored outputs of timm's and torchvision's networks.

A tensor's values depend on its name and shape only, an image's on its index and size only. Only
Philox' raw integers and correctly rounded float64 arithmetic (no libm, no `Generator` methods)
are used, so that NumPy on any machine gives the same bits. NumPy is all that this file needs: the
environment that makes the references and the tests that read them both import it.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

REFERENCES = Path(__file__).with_name("references.npz")
STAGES = 5
CHANNELS = 6  # channels a stage whose spatial means are kept
LOGIT_STEP = 10

# Intervals of the weights of normalisation layers. In inference mode batch normalisation does not
# normalise, so the last ones of a residual branch must shrink it: 139 blocks stay below 1e3.
_NORM_WEIGHTS = {"bn2": (0.3, 0.9), "norm2": (0.3, 0.9), "bn3": (0.2, 0.5), "norm3": (0.2, 0.5)}


def _bits(seed: str, count: int) -> np.ndarray:
    """`count` 32-bit integers of the Philox stream whose key is SHA-256(seed)[:16]."""
    key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw((count + 1) // 2)
    return np.asarray(raw).astype("<u8", copy=False).view("<u4")[:count]


def _uniform(seed: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """float32 of this shape, uniform in [low, high]."""
    values = _bits(seed, math.prod(shape)).astype(np.float64)
    values += 0.5
    values *= (high - low) / 2**32
    values += low
    return values.astype(np.float32).reshape(tuple(shape))


def _normal_like(seed: str, shape: Sequence[int]) -> np.ndarray:
    """float64 of this shape: sums of four uniform 16-bit integers, mean 0, variance 1."""
    words = _bits(seed, 2 * math.prod(shape)).view("<u2").reshape(-1, 4)
    sums = words.astype(np.int64).sum(axis=1)
    return ((sums - 2 * 65535) / (65536 * math.sqrt(1 / 3))).reshape(tuple(shape))


def tensor(name: str, shape: Sequence[int]) -> np.ndarray:
    """The values of one tensor of a torch state dict.

    Args:
        name: its key, such as `layer1.0.bn2.running_var`.
        shape: its shape in torch's layout (out, in / groups, height, width).

    Returns:
        float32, for `num_batches_tracked` int64 zeros. Kernels are uniform with standard deviation
        sqrt(2 / fan_in); weights of normalisation 0.5 to 1.5, of `bn2`/`norm2` 0.3 to 0.9, of
        `bn3`/`norm3` 0.2 to 0.5; biases and running means -0.2 to 0.2; running variances 0.5 to 2.
    """
    module, _, field = name.rpartition(".")
    if field == "num_batches_tracked":
        return np.zeros(tuple(shape), np.int64)
    if field == "running_var":
        return _uniform(name, shape, 0.5, 2.0)
    if field in ("running_mean", "bias"):
        return _uniform(name, shape, -0.2, 0.2)
    if field != "weight":
        raise ValueError(f"no formula for a tensor named {name!r}")
    if len(shape) == 1:
        return _uniform(name, shape, *_NORM_WEIGHTS.get(module.rpartition(".")[2], (0.5, 1.5)))
    bound = math.sqrt(6 / math.prod(shape[1:]))
    return _uniform(name, shape, -bound, bound)


def state(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """All tensors of a state dict, from its names and shapes."""
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def digest(shapes: Mapping[str, Sequence[int]]) -> str:
    """SHA-256 of the sorted lines `name 64x3x7x7`, joined by newlines."""
    lines = sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def images(batch: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """float32 (batch, height, width, channels), about standard normal; transpose for NCHW.

    Noise of single pixels plus noise of a 5x5 grid of patches: with the first alone, all images
    look the same to a network that ends in global pooling.
    """
    rows, columns = (np.arange(n) * 5 // n for n in (height, width))
    batches = []
    for index in range(batch):
        seed = f"image {index} {height}x{width}x{channels}"
        fine = _normal_like(seed, (height, width, channels))
        coarse = _normal_like(f"{seed} coarse", (5, 5, channels))[rows][:, columns]
        batches.append(0.6 * fine + 0.8 * coarse)
    return np.stack(batches).astype(np.float32)


def kept_logits(logits: np.ndarray) -> np.ndarray:
    """Those that the references hold: every tenth class, in order."""
    return logits[..., ::LOGIT_STEP]


def kept_channels(count: int) -> list[int]:
    """The channels of a stage with `count` channels whose spatial means are kept."""
    return [index * (count - 1) // (CHANNELS - 1) for index in range(CHANNELS)]


def stage_numbers(maps: np.ndarray) -> np.ndarray:
    """float32 (batch, 2 + CHANNELS) of one stage's NHWC maps.

    Columns: mean and standard deviation over the whole image, then the spatial means of
    `kept_channels`.
    """
    maps = np.asarray(maps, np.float64)
    means = maps.mean(axis=(1, 2))[:, kept_channels(maps.shape[-1])]
    whole = [maps.mean(axis=(1, 2, 3)), maps.std(axis=(1, 2, 3))]
    return np.concatenate([np.stack(whole, axis=1), means], axis=1).astype(np.float32)


def reference(name: str, path: Path = REFERENCES) -> dict[str, np.ndarray]:
    """What is stored of one network.

    Args:
        name: such as `timm/resnet50`, `torchvision/vgg16`, `timm/resnet50@os8`.
        path: the file to read.

    Returns:
        sizes (2,): the two input heights (= widths). logits (2 sizes, 2 images, 100): see
        `kept_logits`. logit_max, logit_std (2, 2): of all 1000. stages (2, 2, 5, 2 + CHANNELS):
        `stage_numbers` of the five taps. rounding (2,): largest difference of the logits from
        float64, by logit_max (nan: not measured). digest: of names and shapes (text).
    """
    with np.load(path) as file:
        names = file["names"].tolist()
        if name not in names:
            raise KeyError(f"no reference for {name!r}")
        row = names.index(name)
        return {key: file[key][row] for key in file.files if key not in ("names", "about")}


def names(path: Path = REFERENCES) -> list[str]:
    """The networks with a reference."""
    with np.load(path) as file:
        return [str(name) for name in file["names"]]


def relative_error(found: np.ndarray, expected: np.ndarray, scale: np.ndarray) -> float:
    """Largest |found - expected|, divided by the image's `scale` (its largest absolute logit)."""
    return float(np.max(np.abs(found - expected) / np.asarray(scale)[..., None]))


def shapes_of(items: Iterable[tuple[str, Sequence[int]]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as a dictionary of plain tuples."""
    return {name: tuple(int(n) for n in shape) for name, shape in items}
