"""Networks with blocks deleted or reordered after training: arXiv 1605.06431, sec. 4.

Deleting a block leaves its residual branch out: the shortcut alone goes on, also where it changes
the shape. A plain block has no shortcut; it can be skipped only where the shape stays. Reordering
exchanges pairs of blocks of one stage that keep the shape, one pair after another, each at most
once. Nothing is trained again.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.analyses import common
from ablations.analyses.graph import Chain, Step
from ablations.errors import UserError
from ablations.records import Cell, Run
from ablations.stats import summarise
from ablations.stream import generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Blocks deleted, or pairs exchanged, at once.
COUNTS = (1, 2, 3, 5, 7, 10)


@dataclass(frozen=True)
class Lesion:
    """One way to damage a network.

    Attributes:
        kind: "none", "delete" (one block), "delete_random" or "swap_random".
        k: blocks deleted, or pairs exchanged.
        draw: number of the random choice; 0 where there is none.
        blocks: deleted ones; of a reordering the new order.
        tau: Kendall's rank correlation between the old and the new order.
        steps: the network, for `Chain`.
    """

    kind: str
    k: int
    draw: int
    blocks: tuple[str, ...]
    tau: float
    steps: tuple[Step, ...]


def lesioned(model: Any, remove: Collection[str] = (), order: Sequence[str] | None = None) -> Any:
    """Return a Keras model without some blocks, or with reordered ones; it shares the weights.

    Args:
        model: functional; its layers are named as `reszoo.build` names them.
        remove: blocks, e.g. ["stage2_block1"].
        order: all blocks in their new order; None: as they are.

    Raises:
        UserError: a name is unknown, the shapes do not allow it, or it is no chain of blocks.
    """
    import keras

    from reszoo.layers import deep_graph

    chain = Chain(model)
    with deep_graph(len(model.layers)):
        # A new input: that of a model of lower precision would round the images.
        image = keras.Input(model.input_shape[1:], dtype="float32")
        outputs = chain(image, chain.steps(remove, order))
        return keras.Model(image, outputs, name=model.name)


def kendall(old: Sequence[str], new: Sequence[str]) -> float:
    """Return Kendall's tau between two orders of the same names: 1 equal, -1 reversed."""
    place = {name: number for number, name in enumerate(old)}
    pairs = list(itertools.combinations([place[name] for name in new], 2))
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs) if pairs else 1.0


def plan(chain: Chain, draws: int, seed: int = 0) -> list[Lesion]:
    """Return the lesions of a network: none, every block, k random blocks, k random exchanges.

    Args:
        chain: the network.
        draws: random choices for each k of `COUNTS`.
        seed: of the choices. Nets with equal blocks and seed get equal choices.
    """
    lesions = [Lesion("none", 0, 0, (), 1.0, chain.steps())]
    removable = chain.removable
    for name in removable:
        lesions.append(Lesion("delete", 1, 0, (name,), 1.0, chain.steps([name])))
    draw = generator(seed, 0, "lesion/delete")
    counts = [k for k in COUNTS if k <= len(removable)]
    for k, number in itertools.product(counts, range(draws)):
        some = tuple(removable[i] for i in sorted(draw.permutation(len(removable))[:k]))
        lesions.append(Lesion("delete_random", k, number, some, 1.0, chain.steps(some)))
    pairs = [p for group in chain.interchangeable() for p in itertools.combinations(group, 2)]
    draw = generator(seed, 0, "lesion/swap")
    for k, number in itertools.product([k for k in COUNTS if k <= len(pairs)], range(draws)):
        order = chain.blocks
        for pair in draw.permutation(len(pairs))[:k]:  # one after another
            a, b = (order.index(name) for name in pairs[pair])
            order[a], order[b] = order[b], order[a]
        tau = kendall(chain.blocks, order)
        steps = chain.steps(order=order)
        lesions.append(Lesion("swap_random", k, number, tuple(order), tau, steps))
    return lesions


def wrong(chain: Chain, lesions: Sequence[Lesion], batches: Iterable[common.Batch]) -> np.ndarray:
    """Return how many images each damaged network gets wrong, int (lesions,).

    Args:
        chain: the network; the classifier's argmax counts.
        lesions: from `plan`.
        batches: images (n, height, width, channels) float32 and labels (n,).
    """
    import tensorflow as tf

    def compiled(step: Step) -> Any:
        unit = chain.units[step[0]]
        spec = tf.TensorSpec((None, *unit.input.shape[1:]), tf.float32)
        return tf.function(lambda x: unit(x, step[1]), input_signature=[spec])

    intact = chain.steps()
    every = {step for lesion in lesions for step in lesion.steps}
    units = {step: compiled(step) for step in every | set(intact)}
    errors = np.zeros(len(lesions), np.int64)
    for images, labels in batches:
        # What lies before the first change is the same for all lesions: computed once.
        maps = [tf.constant(images)]
        for step in intact:
            maps.append(units[step](maps[-1]))
        for number, lesion in enumerate(lesions):
            same = itertools.takewhile(
                lambda p: p[0] == p[1], zip(intact, lesion.steps, strict=True)
            )
            start = sum(1 for _ in same)
            x = maps[start]
            for step in lesion.steps[start:]:
                x = units[step](x)
            errors[number] += int(np.count_nonzero(x.numpy().argmax(axis=1) != labels))
    return errors


def report(run: Run, cells: Sequence[Cell], dataset: Any, images: int, draws: int) -> common.Report:
    """Return the lesions of all cells; see `analyses.analyse`. Arms without blocks are left out."""
    from reszoo.models import logits_model

    chosen = common.rows(len(dataset.test.labels), images)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    used: list[Cell] = []
    for cell in cells:
        model = common.load_network(cell)
        try:
            chain = Chain(logits_model(model))
            if not chain.removable:
                raise UserError("no block can be left out")
        except UserError as error:
            notes.append(f"{cell.label}: {error}")
            continue
        used.append(cell)
        lesions = plan(chain, draws, cell.seed)
        batches = common.batches(common.source(cell, dataset), chosen)
        counts = wrong(chain, lesions, batches)
        places = {name: place for place, name in enumerate(chain.blocks, start=1)}
        shapes = {unit.name: unit.keeps_shape for unit in chain.units}
        for lesion, count in zip(lesions, counts.tolist(), strict=True):
            single = lesion.blocks[0] if lesion.kind == "delete" else ""
            rows.append(
                {"arm": cell.arm, "seed": cell.seed, "kind": lesion.kind, "k": lesion.k,
                 "draw": lesion.draw, "place": places.get(single, ""),
                 "keeps_shape": shapes.get(single, ""), "kendall_tau": f"{lesion.tau:.6g}",
                 "error": f"{100 * count / len(chosen):.6g}", "wrong": count,
                 "images": len(chosen), "blocks": " ".join(lesion.blocks)}
            )  # fmt: skip
    if not rows:
        raise UserError(f"lesion: no network has blocks to leave out: {notes[0]}")
    sentence = common.images_sentence(dataset, chosen)
    chance = 100 * (1 - 1 / len(dataset.class_names))
    return common.Report(
        "lesion",
        {"lesion": rows},
        lambda: draw(run, used, rows, sentence, chance),
        _summary(rows),
        notes,
    )


def _errors(
    rows: Sequence[dict[str, Any]], arm: str, kind: str, key: str
) -> dict[Any, list[float]]:
    """Return value of a column -> errors in percent, of one arm and kind."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if (row["arm"], row["kind"]) == (arm, kind):
            found.setdefault(row[key], []).append(float(row["error"]))
    return dict(sorted(found.items()))


def _summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    table = [["arm", "intact %", "one deleted %", "worst block", "k deleted %", "k swapped %"]]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        single = {b: summarise(e).mean for b, e in _errors(rows, arm, "delete", "blocks").items()}
        cells = [arm, f"{summarise(_errors(rows, arm, 'none', 'k')[0]).mean:.2f}"]
        cells.append(f"{summarise(list(single.values())).mean:.2f}")
        worst = max(single, key=lambda block: single[block])
        cells.append(f"{worst} {single[worst]:.2f}")
        for kind in ("delete_random", "swap_random"):
            found = _errors(rows, arm, kind, "k")
            last = max(found, default=0)
            cells.append(f"k={last}: {summarise(found[last]).mean:.2f}" if found else "–")
        table.append(cells)
    return common.columns(table)


def draw(
    run: Run, cells: Sequence[Cell], rows: Sequence[dict[str, Any]], sentence: str, chance: float
) -> Figure:
    """Return error after one deletion, after k deletions and, where there are any, k exchanges.

    Args:
        run: for titles and colours.
        cells: what it rests on.
        rows: of lesion.csv.
        sentence: on the images.
        chance: error of guessing, percent.
    """
    from matplotlib.ticker import MaxNLocator

    from ablations.report import _axes

    kinds = {
        "delete_random": "blocks deleted at random",
        "swap_random": "pairs of blocks exchanged",
    }
    drawn = [kind for kind in kinds if kind in {row["kind"] for row in rows}]
    with _axes.style():
        figure, (single, *others) = _axes.panels(
            5.2, 1, 1 + len(drawn), sharey=True, width_ratios=(1.4, *(1 for _ in drawn))
        )
        for arm in dict.fromkeys(row["arm"] for row in rows):
            tint = _axes.colour(run, arm)
            intact = summarise(_errors(rows, arm, "none", "k")[0]).mean
            single.axhline(intact, color=tint, lw=0.9, ls=":")
            _draw_single(single, rows, arm, tint, _axes.marker(run, arm))
            for axis, kind in zip(others, drawn, strict=True):
                found = _errors(rows, arm, kind, "k")
                if not found:
                    continue
                k = [0, *found]
                spread = [(intact, intact), *((min(e), max(e)) for e in found.values())]
                low, high = zip(*spread, strict=True)
                axis.fill_between(k, low, high, color=tint, alpha=0.12, lw=0)
                means = [intact, *(summarise(e).mean for e in found.values())]
                axis.plot(k, means, color=tint, lw=2, marker=_axes.marker(run, arm), ms=4)
        labels = ["deleted block (from the input)", *(kinds[kind] for kind in drawn)]
        for axis, label in zip((single, *others), labels, strict=True):
            axis.axhline(chance, color=_axes.GREY, lw=0.9, ls="--")
            axis.set_xlabel(label)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        single.set_ylabel("test error (%)")
        single.set_ylim(bottom=0)
        figure.legend(*single.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
        sentences = [
            "Blocks deleted or exchanged after training, nothing trained again. Means over seeds "
            "and random choices; bands: lowest to highest. Hollow: the block changes the shape. "
            "Dotted: nothing deleted; dashed: chance.",
            "" if "swap_random" in drawn else "No stage has two blocks that could be exchanged.",
            sentence,
            _axes.provenance(run, cells),
        ]
        return _axes.finish(figure, f"{run.grid['title']}: lesions", sentences)


def _draw_single(
    axis: Axes, rows: Sequence[dict[str, Any]], arm: str, tint: str, marker: str
) -> None:
    found = _errors(rows, arm, "delete", "place")
    keeps = {r["place"]: r["keeps_shape"] for r in rows if (r["arm"], r["kind"]) == (arm, "delete")}
    means = {place: summarise(errors).mean for place, errors in found.items()}
    axis.plot(list(means), list(means.values()), color=tint, lw=1.6, label=arm)
    for whole in (True, False):
        places = [place for place in means if keeps[place] is whole]
        face = tint if whole else "white"
        axis.plot(places, [means[p] for p in places], marker, color=tint, mfc=face, ms=5)
