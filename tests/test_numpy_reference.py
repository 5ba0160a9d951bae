"""The NumPy reference itself against PyTorch's autograd, where the extra parity is installed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_reference import he_normal_std, train

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[parity]'")
BLOCKS, WIDTH, CLASSES, STEPS = 1, 4, 3, 6


def parameters(shortcut: str) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}

    def conv(name: str, size: int, before: int, after: int) -> None:
        shape = (size, size, before, after)
        found[f"{name}/kernel"] = draw.normal(0, he_normal_std(shape), shape)

    def norm(name: str, channels: int) -> None:
        found[f"{name}/gamma"] = 0.5 + draw.random(channels)
        found[f"{name}/beta"] = draw.normal(size=channels)
        found[f"{name}/moving_mean"] = np.zeros(channels)
        found[f"{name}/moving_variance"] = np.ones(channels)

    conv("stem_conv", 3, 2, WIDTH)
    norm("stem_norm", WIDTH)
    before = WIDTH
    for stage in (1, 2, 3):
        after = WIDTH * 2 ** (stage - 1)
        tag = f"stage{stage}_block1"
        conv(f"{tag}_conv1", 3, before, after)
        norm(f"{tag}_norm1", after)
        conv(f"{tag}_conv2", 3, after, after)
        norm(f"{tag}_norm2", after)
        if shortcut == "C" or (shortcut == "B" and before != after):
            conv(f"{tag}_shortcut_conv", 1, before, after)
            norm(f"{tag}_shortcut_norm", after)
        before = after
    found["head_dense/kernel"] = draw.normal(size=(before, CLASSES))
    found["head_dense/bias"] = draw.normal(size=CLASSES)
    return found


def forward(p: dict, x, shortcut: str):
    functional = torch.nn.functional

    def conv(name, x, stride=1):
        kernel = p[f"{name}/kernel"].permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(name, x):
        return functional.batch_norm(
            x, None, None, p[f"{name}/gamma"], p[f"{name}/beta"], training=True, eps=1e-5
        )

    x = torch.relu(norm("stem_norm", conv("stem_conv", x)))
    for stage in (1, 2, 3):
        tag, stride, identity = f"stage{stage}_block1", 1 if stage == 1 else 2, x
        x = torch.relu(norm(f"{tag}_norm1", conv(f"{tag}_conv1", x, stride)))
        x = norm(f"{tag}_norm2", conv(f"{tag}_conv2", x))
        if f"{tag}_shortcut_conv/kernel" in p:
            identity = norm(f"{tag}_shortcut_norm", conv(f"{tag}_shortcut_conv", identity, stride))
        elif shortcut != "none":
            identity = identity[:, :, ::stride, ::stride]
            missing = x.shape[1] - identity.shape[1]
            identity = functional.pad(identity, (0, 0, 0, 0, 0, missing))
        x = torch.relu(x + identity if shortcut != "none" else x)
    return x.mean((2, 3)) @ p["head_dense/kernel"] + p["head_dense/bias"]


@pytest.mark.parametrize("shortcut", ["none", "A", "B", "C"])
def test_training_equals_torch(shortcut: str) -> None:
    """Float64, six steps with torch's own SGD (constant rate, momentum, coupled L2)."""
    draw = np.random.default_rng(1)
    feed = [(draw.normal(size=(5, 9, 9, 2)), draw.integers(0, CLASSES, 5)) for _ in range(STEPS)]
    start = parameters(shortcut)
    wanted = {
        name: torch.tensor(value, requires_grad=True)
        for name, value in start.items()
        if "moving" not in name
    }
    optimizer = torch.optim.SGD(wanted.values(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    losses = []
    for images, labels in feed:
        optimizer.zero_grad()
        logits = forward(wanted, torch.tensor(images).permute(0, 3, 1, 2), shortcut)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = train(start, feed, [0.05] * STEPS, blocks=BLOCKS, shortcut=shortcut, l2=1e-2)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-10)
    for name, value in wanted.items():
        np.testing.assert_allclose(found.params[name], value.detach(), rtol=1e-9, atol=1e-11)
