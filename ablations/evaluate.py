"""Error of a saved model on a data set.

Examples:
  python -m ablations.evaluate runs/shortcuts/cells/A/seed0/model.keras
  python -m ablations.evaluate model.keras --dataset cifar10 --data_dir DIR
  python -m ablations.evaluate model.keras --dataset imagenet --data_dir DIR --views 10

The per-pixel mean comes from the cell beside the model where there is one, else from the training
part of the data set. The error goes to standard output. Exit status: 0, 1 a bug, 2 bad input.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from absl import flags

from ablations import cli, environment
from ablations.errors import UserError

#: Not absl's global flags: several commands must load in one process.
FLAGS = flags.FlagValues()
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "fashion, cifar10, cifar100, imagenet or folder; default: that of the cell",
    flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where the data are", flag_values=FLAGS)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "folder: resize the shorter side to this many pixels, crop the centre",
    flag_values=FLAGS,
)
_PART = flags.DEFINE_enum(
    "part",
    "test",
    ["test", "validation", "train"],
    "which part of the data set",
    flag_values=FLAGS,
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "training images held out for validation; default: as for the cell",
    flag_values=FLAGS,
)
_VIEWS = flags.DEFINE_enum(
    "views", "1", ["1", "10"], "imagenet: centre crop or ten crops", flag_values=FLAGS
)


def main(paths: list[str]) -> int:
    """Run the command; return its exit status."""
    if len(paths) != 1:
        raise UserError("give the path of one .keras file")
    found = evaluate(
        paths[0],
        _DATASET.value,
        _DATA_DIR.value,
        image_size=_IMAGE_SIZE.value,
        part=_PART.value,
        split=_SPLIT.value,
        views=int(_VIEWS.value),
    )
    print(
        f"{paths[0]}: top-1 error {found['error']:.2f} % ({found['wrong']:,} of "
        f"{found['images']:,} wrong), cross-entropy {found['loss']:.4f}, {found['title']}, "
        f"{_PART.value} part, mean image from {found['mean_from']}"
    )
    return cli.EXIT_OK


def evaluate(
    path: str | Path,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    *,
    image_size: int | None = None,
    part: str = "test",
    split: str | None = None,
    views: int = 1,
) -> dict[str, Any]:
    """Return error (percent), wrong, images, loss, title of the data and mean_from.

    Args:
        path: a .keras file that takes images with the per-pixel mean subtracted, in [0, 1] before.
        dataset: name of the data set; None: that of the cell beside the model.
        data_dir: where it is.
        image_size: see `data.load`.
        part: "test", "validation" or "train", un-augmented.
        split: see `data.load`; None: that of the cell beside the model where the data set is the
            cell's, else "full".
        views: 1, or 10 for ImageNet.

    Raises:
        UserError: the file, the data set or their shapes do not fit.
    """
    from ablations import data
    from ablations.prediction import load_model, predict
    from ablations.recipes import recipe
    from ablations.stream import make_source, training_mean

    file = Path(path)
    if not file.is_file():
        raise UserError(f"no model file at {file}")
    cell = _cell(file)
    name = dataset or (cell["data"]["name"] if cell else None)
    if name is None:
        raise UserError(f"{file} has no cell beside it: name the data set with --dataset")
    if split is None:
        mine = cell is not None and cell["data"]["name"] == name
        split = cell["data"].get("split", data.splits.FULL) if cell and mine else data.splits.FULL
    loaded = data.load(name, data_dir, image_size=image_size, split=split)
    if getattr(loaded, part) is None:
        held_out = ", ".join(data.splits.names(name)[1:])
        raise UserError(f"{loaded.title} has no {part} part: give --split ({held_out})")

    import numpy as np

    model = load_model(file)
    if tuple(model.input_shape[1:]) != loaded.image_shape:
        raise UserError(
            f"{file} takes images of {model.input_shape[1:]}, {loaded.title} has "
            f"{loaded.image_shape}"
        )
    if model.output_shape[-1] != len(loaded.class_names):
        raise UserError(
            f"{file} knows {model.output_shape[-1]} classes, {loaded.title} has "
            f"{len(loaded.class_names)}"
        )
    protocol = recipe("quick").replace(**cell["recipe"]) if cell else recipe("quick")
    workers = os.cpu_count() or 1
    if cell and cell["data"]["digest"] == loaded.digest:
        try:
            with np.load(file.parent / "predictions.npz", allow_pickle=False) as arrays:
                mean, origin = arrays["pixel_mean"], "the cell"
        except Exception as error:  # a damaged zip file raises whatever it leads to
            raise UserError(f"{file.parent / 'predictions.npz'} is damaged: {error}") from error
    else:
        mean, origin = training_mean(loaded.train, protocol, workers), "the training part"
    source = make_source(getattr(loaded, part), protocol, 0, mean, workers)
    result = predict(_Evaluator(model), source, views)
    return {
        "error": result.error,
        "wrong": result.wrong,
        "images": len(source.labels),
        "loss": result.loss,
        "title": loaded.title,
        "mean_from": origin,
    }


class _Evaluator:
    """Gives `predict` the log-probabilities of a model that ends in softmax."""

    def __init__(self, model: Any) -> None:
        from reszoo.models import logits_model

        self._model = logits_model(model)

    def evaluate(self, images: Any) -> Any:
        """Return logits (n, classes)."""
        return self._model.predict(images, batch_size=len(images), verbose=0)


def _cell(file: Path) -> dict[str, Any] | None:
    """Return the configuration of the cell that left the model, if there is one beside it."""
    from ablations import files

    path = file.parent / "cell.json"
    if not path.exists() or not (file.parent / "predictions.npz").exists():
        return None
    try:
        return files.read_json(path)["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def console() -> None:
    """Entry point of the console script."""
    cli.run(
        main,
        doc=__doc__ or "",
        version=environment.version_line,
        command="python -m ablations.evaluate",
        flag_values=FLAGS,
        positionals=True,
    )


if __name__ == "__main__":
    console()
