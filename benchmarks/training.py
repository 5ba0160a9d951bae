"""Training speed of the same network, side by side in one run: reszoo, plain Keras, PyTorch.

    python benchmarks/training.py --net resnet20 --width 8 --threads 1

Prints images a second of each as the median over interleaved rounds, and the ratios to reszoo's,
with versions and hardware. Each contender runs in a process of its own with the same number of
threads; rounds alternate, so that a drifting machine hits all alike. PyTorch takes part where it is
installed (`pip install torch==2.13.0`).

    reszoo    reszoo.build, the laboratory's training step, oneDNN on
    keras     stock Keras layers (portable=True), keras.optimizers.SGD, fit-style step, oneDNN on
    keras-as-it-comes   the same with TensorFlow's own default for oneDNN
    torch     the same network written in PyTorch, channels_last, eager
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import contenders

CONTENDERS = ("reszoo", "keras", "keras-as-it-comes", "torch")


def main() -> None:
    """Parse arguments; measure in rounds, or be one contender."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--size", type=int, default=28, help="pixels of the square input")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        _contend(options)
    else:
        _measure(options)


def _measure(options: argparse.Namespace) -> None:
    processes = {}
    for name in CONTENDERS:
        process = contenders.start(
            [__file__, *sys.argv[1:], "--contender", name],
            options.threads,
            None if name == "keras-as-it-comes" else "1",
        )
        ready = process.stdout.readline().strip()
        if ready.startswith("ready"):
            processes[name] = process
            print(f"{name}: {ready[6:]}")
        else:
            print(f"{name}: not measured ({ready or 'it could not start'})")
    speeds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(options.rounds):
        for name, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            speeds[name].append(float(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
    from ablations.environment import cpu_model

    model = cpu_model()
    print(f"{options.net} width {options.width}, {options.size}x{options.size}, batch "
          f"{options.batch}, {options.threads} thread(s), {model}, {options.rounds} rounds of "
          f"{options.steps} steps")  # fmt: skip
    reference = speeds["reszoo"]
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(reference, values, strict=True)]
        print(f"{name:<20}{statistics.median(values):>8.0f} images/s   "
              f"({min(values):.0f} to {max(values):.0f})   reszoo is "
              f"{statistics.median(ratios):.2f} times as fast")  # fmt: skip


def _contend(options: argparse.Namespace) -> None:
    try:
        step, label = (_torch if options.contender == "torch" else _tensorflow)(options)
        for _ in range(3):
            step()
    except ImportError as error:
        print(f"{error}", flush=True)
        return
    print(f"ready {label}", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(options.steps):
            step()
        print(options.batch * options.steps / (time.perf_counter() - start), flush=True)


def _data(options: argparse.Namespace):
    import numpy as np

    draw = np.random.default_rng(0)
    images = draw.normal(size=(options.batch, options.size, options.size, 1)).astype(np.float32)
    return images, draw.integers(0, 10, options.batch).astype(np.int32)


def _tensorflow(options: argparse.Namespace):
    import keras
    import tensorflow as tf

    import reszoo
    from ablations.recipes import recipe
    from ablations.trainer import Trainer

    images, labels = _data(options)
    shape = (options.size, options.size, 1)
    label = f"tensorflow {tf.__version__}, keras {keras.__version__}"
    if options.contender == "reszoo":
        trainer = Trainer(
            options.net, recipe("quick", batch=options.batch), 0,
            width=options.width, input_shape=shape, classes=10,
        )  # fmt: skip
        return lambda: trainer.step(images, labels, 0.01).numpy(), label
    model = reszoo.build(
        options.net, width=options.width, input_shape=shape, classes=10, portable=True
    )
    model.compile(
        keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return lambda: model.train_on_batch(images, labels), label


def _torch(options: argparse.Namespace):
    import torch
    from torch import nn

    import reszoo

    torch.set_num_threads(options.threads)
    spec = reszoo.spec(options.net, width=options.width)

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after),
                nn.ReLU(inplace=True), nn.Conv2d(after, after, 3, 1, 1, bias=False),
                nn.BatchNorm2d(after),
            )  # fmt: skip
            self.stride, self.extra = stride, after - before

        def forward(self, x):
            identity = x[:, :, :: self.stride, :: self.stride]
            if self.extra:
                identity = nn.functional.pad(identity, (0, 0, 0, 0, 0, self.extra))
            return torch.relu(self.body(x) + identity)

    layers = [nn.Conv2d(1, spec.stem_width, 3, 1, 1, bias=False), nn.BatchNorm2d(spec.stem_width),
              nn.ReLU(inplace=True)]  # fmt: skip
    before = spec.stem_width
    for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        for block in range(depth):
            layers.append(Block(before, width, 2 if stage and not block else 1))
            before = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    images, labels = _data(options)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long()

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, f"torch {torch.__version__}, channels_last, eager"


if __name__ == "__main__":
    main()
