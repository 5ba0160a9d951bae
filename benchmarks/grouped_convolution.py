"""Training speed of grouped convolutions on a processor: stock Keras against reszoo's Conv2D.

    python benchmarks/grouped_convolution.py                   # about 9 minutes on 2 cores
    python benchmarks/grouped_convolution.py --cases layer     # one layer only
    python benchmarks/grouped_convolution.py --rounds 3        # more repeats of everything

Prints seconds a training step (median over interleaved rounds) and the ratio for

    layer      128 channels in 32 groups, 3x3, 28x28, batch 32: forward and backward
    32x4d      resnext29_32x4d (arXiv 1611.05431), 32x32, batch 16: a training step
    8x64d      resnext29_8x64d, 32x32, batch 4: a training step

The networks of both contenders are equal but for the class of their convolutions; all other layers
are Keras' own. Each contender runs in a process of its own, with oneDNN on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import contenders

CONTENDERS = ("reszoo", "keras")
CASES = {"layer": 32, "32x4d": 16, "8x64d": 4}  # images a step
# Seconds of stock Keras on 2 cores of an AMD EPYC: the first step with compilation, each other one.
SECONDS = {"layer": (50, 45), "32x4d": (120, 130), "8x64d": (110, 40)}
# Steps of reszoo in a round; a stock step lasts as long as dozens of these.
STEPS = 5


def main() -> None:
    """Parse arguments; measure in rounds, or be one contender."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="after one step to warm up")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        _contend(options)
        return
    from ablations.environment import cpu_model

    expected = sum(SECONDS[case][0] + options.rounds * SECONDS[case][1] for case in options.cases)
    print(
        f"{cpu_model()}, {options.threads} thread(s), {options.rounds} round(s); "
        f"about {expected / 60:.0f} minutes",
        flush=True,
    )
    for case in options.cases:
        _measure(case, options)


def _measure(case: str, options: argparse.Namespace) -> None:
    processes = {}
    for name in CONTENDERS:
        processes[name] = contenders.start(
            [__file__, "--cases", case, "--contender", name], options.threads
        )
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    labels = {name: process.stdout.readline().strip() for name, process in processes.items()}
    if case == options.cases[0]:
        print(labels["reszoo"], flush=True)
    for turn in range(options.rounds + 1):
        for name, process in processes.items():
            steps = STEPS if turn and name == "reszoo" else 1
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                sys.exit(f"{case}: {name} ended; run: {' '.join(process.args)}")
            if turn:
                seconds[name].append(float(answer))
            elif name == "keras":
                warm = float(answer)
                print(
                    f"{case}: Keras' first step took {warm:.0f} s; {options.rounds} more to come",
                    flush=True,
                )
    for process in processes.values():
        process.stdin.close()
    ratios = [b / a for a, b in zip(seconds["reszoo"], seconds["keras"], strict=True)]
    ours, stock = (statistics.median(seconds[name]) for name in CONTENDERS)
    print(
        f"{case}: batch {CASES[case]}, reszoo {ours:.3f} s a step, Keras {stock:.2f} s: "
        f"reszoo is {statistics.median(ratios):.1f} times as fast",
        flush=True,
    )


def _contend(options: argparse.Namespace) -> None:
    import keras
    import tensorflow as tf

    from reszoo.layers.convolution import Conv2D

    case = options.cases[0]
    kind = Conv2D if options.contender == "reszoo" else keras.layers.Conv2D
    step = _layer(kind, CASES[case]) if case == "layer" else _network(kind, case, CASES[case])
    print(f"tensorflow {tf.__version__}, keras {keras.__version__}", flush=True)
    for line in sys.stdin:
        steps = int(line)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        print((time.perf_counter() - start) / steps, flush=True)


def _layer(kind: type, batch: int):
    import tensorflow as tf

    layer = kind(128, 3, padding="same", groups=32, use_bias=False)
    image = tf.random.normal([batch, 28, 28, 128])
    layer.build(image.shape)

    @tf.function
    def step(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.reduce_sum(layer(image) ** 2)
        return tape.gradient(loss, [image, *layer.trainable_variables])

    return lambda: [gradient.numpy() for gradient in step(image)]


def _network(kind: type, name: str, batch: int):
    import keras
    import numpy as np

    model = resnext29(kind, *map(int, name.removesuffix("d").split("x")))
    model.compile(keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy")
    draw = np.random.default_rng(0)
    images = draw.normal(size=(batch, 32, 32, 3)).astype(np.float32)
    labels = draw.integers(0, 10, batch)
    return lambda: model.train_on_batch(images, labels)


def resnext29(kind: type, cardinality: int, width: int):
    """Return ResNeXt-29 for CIFAR: 3 stages of 3 bottlenecks; `kind` makes all convolutions."""
    import keras
    from keras import layers

    def unit(x, filters, size, stride=1, groups=1, relu=True):
        x = kind(
            filters, size, strides=stride, padding="same", groups=groups, use_bias=False
        )(x)  # fmt: skip
        x = layers.BatchNormalization(epsilon=1e-5)(x)
        return layers.ReLU()(x) if relu else x

    inputs = keras.Input((32, 32, 3))
    x = unit(inputs, 64, 3)
    for stage in range(3):
        inner, outer = cardinality * width * 2**stage, 256 * 2**stage
        for block in range(3):
            stride = 2 if stage and not block else 1
            shortcut = x if block else unit(x, outer, 1, stride, relu=False)
            y = unit(x, inner, 1)
            y = unit(y, inner, 3, stride, cardinality)
            x = layers.ReLU()(layers.Add()([unit(y, outer, 1, relu=False), shortcut]))
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


if __name__ == "__main__":
    main()
