"""The zoo on Keras' JAX and torch backends, in processes of their own, against TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT
from families import FAMILIES, images, tiny

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
        ),
    )
    for name in ("jax", "torch")
]
FEATURES = ("option A averaged", "basic", "timm v2", "keras v2", "dilated")

# In the other process: networks are built anew, get the weights from files, and are saved, loaded
# and trained there.
CHILD = """
import sys, json
sys.path.insert(0, "tests")
from pathlib import Path
import numpy as np
import keras
from families import FAMILIES, images, tiny
import reszoo, reszoo.exporting, reszoo.layers
heavy = "tensorflow" in sys.modules
folder, backend = Path(sys.argv[1]), sys.argv[2]
assert keras.backend.backend() == backend

def array(y):
    return np.asarray(keras.ops.convert_to_numpy(y))

wrong = []
for family in json.loads(sys.argv[3]):
    x = np.load(folder / f"{family}.npy")
    whole = tiny(family, classifier_activation=None)
    whole.load_weights(folder / f"{family}.weights.h5")
    outputs = {"logits": array(whole(x))}
    whole.save(folder / "again.keras")
    again = reszoo.load(folder / "again.keras")
    if again.spec != whole.spec or not np.array_equal(array(again(x)), outputs["logits"]):
        wrong.append(f"{family}: reloaded model differs")
    other = reszoo.load(folder / f"{family}.keras")
    if not np.array_equal(array(other(x)), outputs["logits"]):
        wrong.append(f"{family}: TensorFlow's file differs")
    if family in json.loads(sys.argv[4]):
        maps = tiny(family, features_only=True)
        for layer in maps.layers:
            layer.set_weights(whole.get_layer(layer.name).get_weights())
        for entry, y in zip(maps.feature_info, maps(x), strict=True):
            outputs[str(entry["index"])] = array(y)
    np.savez(folder / f"{family}.{backend}.npz", **outputs)

first = tiny("option A", data_format="channels_first")
last = tiny("option A")
first.set_weights(last.get_weights())
x = images(last)
if np.abs(array(first(np.moveaxis(x, 3, 1))) - array(last(x))).max() > 1e-6:
    wrong.append("channels_first differs")
try:
    reszoo.export(first, folder / "model")
except reszoo.exporting.ExportError as error:
    if str(error) != f"export works on Keras' tensorflow backend, not {backend}":
        wrong.append(str(error))

model = tiny("option A")
model.freeze("stem")
before = [array(v) for v in model.variables]
model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
loss = model.fit(images(model, 4), np.arange(4), batch_size=4, verbose=0).history["loss"]
moved = {v.path for v, old in zip(model.variables, before) if not np.array_equal(array(v), old)}
expected = {v.path for v in model.variables if not v.path.startswith("stem")}
if moved != expected or not np.isfinite(loss).all():
    wrong.append(f"fit moved {sorted(moved ^ expected)[:4]}, loss {loss}")
print(json.dumps({"wrong": wrong, "tensorflow": heavy}))
"""


def child(backend: str, *arguments: str) -> dict:
    """Run CHILD on a backend; return what its last line says."""
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], env=environment, cwd=ROOT, text=True,
        capture_output=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def parity(backend: str, families: list[str], tmp_path: Path) -> None:
    expected = {}
    for family in families:
        model = tiny(family, classifier_activation=None)
        x = images(model)
        np.save(tmp_path / f"{family}.npy", x)
        model.save_weights(tmp_path / f"{family}.weights.h5")
        model.save(tmp_path / f"{family}.keras")
        expected[family] = {"logits": model(x)}
        if family in FEATURES:
            names = [(str(e["index"]), model.get_layer(e["name"])) for e in model.feature_info]
            view = keras.Model(model.input, {index: layer.output for index, layer in names})
            expected[family] |= view(x)
    told = child(backend, str(tmp_path), backend, json.dumps(families), json.dumps(FEATURES))
    assert told == {"wrong": [], "tensorflow": False}
    for family, outputs in expected.items():
        with np.load(tmp_path / f"{family}.{backend}.npz") as found:
            assert set(found) == set(outputs)
            for key, value in outputs.items():
                error = np.abs(found[key] - np.asarray(value)).max()
                assert error <= 1e-5 * np.abs(value).max(), f"{family}, {key}: {error}"


QUICK = ["option A averaged"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_are_those_of_tensorflow(backend: str, tmp_path: Path) -> None:
    """To 1e-5, with the weights of one file; and files are read back with equal outputs."""
    parity(backend, QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_of_every_family(backend: str, tmp_path: Path) -> None:
    parity(backend, [family for family in FAMILIES if family not in QUICK], tmp_path)
