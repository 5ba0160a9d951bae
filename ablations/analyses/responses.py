"""Standard deviation of layer responses: He et al. 2015, sec. 4.2 and Fig. 7.

The responses of a layer are the outputs of a 3x3 convolution of the main path after batch
normalisation and before ReLU or addition. Where a net normalises elsewhere (pre-activation, VGG),
they are the outputs of its convolutions themselves; the column `measured` says which.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.analyses import common
from ablations.analyses.graph import evaluate, operations, tensors
from ablations.errors import UserError
from ablations.records import Cell, Run
from ablations.stats import summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Response:
    """How strongly a layer responds.

    Attributes:
        index: 1… among the 3x3 layers, in the order of the network.
        layer: name of the convolution.
        measured: name of the layer whose output is meant.
        std: standard deviation over images, positions and channels.
        within: root mean square, over channels, of the standard deviation over images and
            positions: without what the channels' means differ by.
    """

    index: int
    layer: str
    measured: str
    std: float
    within: float


def layers(model: Any) -> list[tuple[Any, Any]]:
    """Return the 3x3 convolutions of the main path, each with the layer whose output is measured.

    Args:
        model: functional.
    """
    ops = operations(model)
    readers: dict[int, list[Any]] = {}
    for op in ops:
        for tensor in tensors(op.input):
            readers.setdefault(id(tensor), []).append(op)
    convs = [
        op
        for op in ops
        if tuple(getattr(op, "kernel_size", ())) == (3, 3) and "shortcut" not in op.name
    ]
    norms = []
    for conv in convs:
        reader = readers.get(id(conv.output), [])
        norms += [op for op in reader if len(reader) == 1 and re.search(r"_norm\d*$", op.name)]
    # One kind for all layers of a net: pre-activation nets normalise some convolutions, not all.
    return list(zip(convs, norms if len(norms) == len(convs) else convs, strict=True))


def measure(model: Any, images: Iterable[np.ndarray]) -> list[Response]:
    """Return the responses of every 3x3 layer in inference mode.

    Args:
        model: functional, with maps (N, H, W, C).
        images: batches (n, height, width, channels), float32.

    Raises:
        UserError: the model has no 3x3 convolution.
    """
    import tensorflow as tf

    pairs = layers(model)
    if not pairs:
        raise UserError(f"{model.name} has no 3x3 convolution to measure")
    ops, wanted = operations(model), [measured.output for _, measured in pairs]

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])
    def sums(x: Any) -> list[Any]:
        found = evaluate(ops, {id(model.input): x}, wanted)
        # Sums leave the graph, maps do not: all maps of a deep net at once would fill the memory.
        return [_sums(tf.cast(y, tf.float64)) for y in found]

    def _sums(y: Any) -> Any:
        count = tf.cast(tf.size(y) / y.shape[-1], tf.float64)
        total, squares = tf.reduce_sum(y, (0, 1, 2)), tf.reduce_sum(y * y, (0, 1, 2))
        return tf.concat([total, squares, [count]], 0)

    totals = [np.zeros(2 * tensor.shape[-1] + 1) for tensor in wanted]
    for batch in images:
        for total, part in zip(totals, sums(batch), strict=True):
            total += part.numpy()
    responses = []
    for index, ((conv, measured), total) in enumerate(zip(pairs, totals, strict=True), start=1):
        mean, square = np.split(total[:-1] / total[-1], 2)
        within = max(float((square - mean**2).mean()), 0.0)
        std = math.sqrt(max(float(square.mean() - mean.mean() ** 2), 0.0))
        responses.append(Response(index, conv.name, measured.name, std, math.sqrt(within)))
    return responses


def report(run: Run, cells: Sequence[Cell], dataset: Any, images: int) -> common.Report:
    """Return the responses of all cells; see `analyses.analyse`."""
    chosen = common.rows(len(dataset.test.labels), images)
    found: dict[str, list[list[Response]]] = {}
    rows: list[dict[str, Any]] = []
    for cell in cells:
        batches = common.batches(common.source(cell, dataset), chosen)
        responses = measure(common.load_network(cell), (x for x, _ in batches))
        found.setdefault(cell.arm, []).append(responses)
        for r in responses:
            rows.append(
                {"arm": cell.arm, "seed": cell.seed, "index": r.index, "layer": r.layer,
                 "measured": r.measured, "std": f"{r.std:.6g}", "std_within": f"{r.within:.6g}"}
            )  # fmt: skip
    means = {arm: seed_means(seeds) for arm, seeds in found.items()}
    table = [["arm", "seeds", "layers", "mean std", "median", "largest"]]
    for arm, stds in means.items():
        numbers = (np.mean(stds), np.median(stds), max(stds))
        table.append(
            [arm, str(len(found[arm])), str(len(stds)), *(f"{number:.3f}" for number in numbers)]
        )
    sentence = common.images_sentence(dataset, chosen)
    raw = sorted({row["arm"] for row in rows if row["measured"] == row["layer"]})
    if raw:
        sentence = f"Before normalisation in {', '.join(raw)}, normalised elsewhere. {sentence}"
    return common.Report(
        "responses",
        {"responses": rows},
        lambda: draw(run, cells, means, sentence),
        common.columns(table),
    )


def seed_means(seeds: Sequence[Sequence[Response]]) -> list[float]:
    """Return each layer's std, averaged over networks of one arm."""
    return [summarise([r.std for r in layer]).mean for layer in zip(*seeds, strict=True)]


def draw(run: Run, cells: Sequence[Cell], means: dict[str, list[float]], sentence: str) -> Figure:
    """Return std by layer: in the network's order above, sorted below (Fig. 7).

    Args:
        run: for titles and colours.
        cells: what it rests on.
        means: arm -> std of each layer.
        sentence: on the images and on what was measured.
    """
    from ablations.report import _axes

    plain = {a.name for a in run.arms if (a.spec or {}).get("shortcut", "none") == "none"}
    with _axes.style():
        figure, panels = _axes.panels(6.4, 2, 1, sharey=True)
        for axis, label in zip(
            panels, ("layer index (original)", "layer index (sorted by magnitude)"), strict=True
        ):
            for arm, stds in means.items():
                values = stds if axis is panels[0] else sorted(stds, reverse=True)
                axis.plot(
                    range(1, len(values) + 1), values, color=_axes.colour(run, arm), lw=1.6,
                    marker=_axes.marker(run, arm), ms=3.5, ls="--" if arm in plain else "-",
                    label=arm,
                )  # fmt: skip
            axis.set_xlabel(label)
            axis.set_ylabel("std")
            axis.set_ylim(bottom=0)
            axis.set_xlim(left=0)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
        sentences = [
            "Standard deviation, over images, positions and channels, of the outputs of each 3x3 "
            "layer after normalisation, before ReLU and addition; mean over seeds. Dashed: plain.",
            sentence,
            _axes.provenance(run, cells),
        ]
        return _axes.finish(figure, f"{run.grid['title']}: layer responses", sentences)
