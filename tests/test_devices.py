"""Devices found without TensorFlow, and cells spread over them, with a stand-in nvidia-smi."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ablations
from ablations import devices, environment
from ablations.placement import cell_bytes, total_memory
from ablations.plan import plan
from ablations.runner import child_environment

TWO = ["GPU-0000,GPU-0001"]
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch):
    """Return a function that makes nvidia-smi list GPUs of the given models."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*models: str) -> None:
        lines = "".join(
            f"{i}, GPU-{i:04}, {model}, 81559, 550.54.15\n" for i, model in enumerate(models)
        )
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}END\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def test_without_gpus_it_is_the_processor(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.find_gpus() == ()
    assert devices.choose(None).model == environment.cpu_model()
    for asked in ("gpu", "0"):
        with pytest.raises(ablations.UserError, match=r"unknown GPU|finds no GPU"):
            devices.choose(asked)


def test_what_nvidia_smi_lists(smi) -> None:
    smi(H100, H100)
    first, second = devices.find_gpus()
    assert (first.index, first.model, first.driver) == ("0", H100, "550.54.15")
    assert second.uuid == "GPU-0001" and second.memory == 81559 * 2**20


@pytest.mark.parametrize(
    ("visible", "found"),
    [("", ""), ("-1", ""), ("1", "1"), ("2,0", "2,0"), ("GPU-0001", "1"), (" 0 , 1", "0,1")],
)
def test_cuda_visible_devices(visible: str, found: str, smi, monkeypatch) -> None:
    smi(H100, H100, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ",".join(gpu.index for gpu in devices.find_gpus()) == found


def test_asking_for_what_is_not_there(smi, monkeypatch) -> None:
    smi(H100, H100)
    with pytest.raises(ablations.UserError, match='--devices: unknown GPU "7"'):
        devices.choose("7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(ablations.UserError, match='CUDA_VISIBLE_DEVICES: unknown GPU "5"'):
        devices.choose(None)


def test_different_models_are_not_mixed(smi) -> None:
    smi(H100, "NVIDIA A100-SXM4-40GB")
    with pytest.raises(ablations.UserError, match="different models"):
        devices.choose(None)
    assert devices.choose("1").model == "NVIDIA A100-SXM4-40GB"
    assert devices.choose("cpu").gpus == ()


def quick(tmp_path: Path, **options):
    return plan("shortcuts", out=tmp_path / "run", **options)


def test_each_cell_has_a_gpu_of_its_own(smi, tmp_path) -> None:
    smi(H100, H100, H100)
    planned = quick(tmp_path)
    assert planned.platform.kind == "gpu" and planned.platform.device == H100
    assert (planned.platform.strategy, planned.platform.replicas) == ("mirrored", 1)
    # By UUID: CUDA may number GPUs otherwise than nvidia-smi does.
    assert planned.slots == ["GPU-0000", "GPU-0001", "GPU-0002"] and planned.jobs == 3
    variables = child_environment({}, planned.platform, planned.slots[1], 3)
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-0001"
    assert variables["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_replicas_are_the_recipe_s_where_there_are_so_many(smi, tmp_path) -> None:
    """The paper's CIFAR recipe: two replicas of 64. Four GPUs: two cells; one GPU: one replica."""
    recipe = {"replicas": 2, "bn_batch": 64}
    smi(H100, H100, H100, H100)
    planned = quick(tmp_path, recipe=recipe)
    assert (planned.platform.replicas, planned.slots, planned.jobs) == (
        2,
        [*TWO, "GPU-0002,GPU-0003"],
        2,
    )
    smi(H100)
    planned = quick(tmp_path, recipe=recipe)
    assert (planned.platform.replicas, planned.slots) == (1, ["GPU-0000"])
    # Eight replicas of 32 on three GPUs: two share a batch, in groups of 32 images.
    smi(H100, H100, H100)
    planned = quick(tmp_path, recipe={"batch": 256, "replicas": 8, "bn_batch": 32})
    assert (planned.platform.replicas, planned.slots) == (2, TWO)


def test_opting_out_of_the_strategy(smi, tmp_path) -> None:
    smi(H100, H100)
    planned = quick(tmp_path, strategy="none", recipe={"replicas": 2})
    platform = planned.platform
    assert (platform.strategy, platform.replicas, platform.xla) == ("none", 1, True)
    assert planned.slots == ["GPU-0000", "GPU-0001"]
    with pytest.raises(ablations.UserError, match="unknown --strategy"):
        quick(tmp_path, strategy="mirorred")


def test_another_number_of_gpus_continues_a_directory(smi, tmp_path) -> None:
    smi(H100)
    few = quick(tmp_path)
    smi(H100, H100, H100)
    many = quick(tmp_path, threads=few.platform.threads)
    assert [c.identity for c in few.cells] == [c.identity for c in many.cells]
    smi("NVIDIA A100-SXM4-40GB")
    other = quick(tmp_path, threads=few.platform.threads)
    assert other.cells[0].identity != few.cells[0].identity


def test_a_directory_keeps_its_replicas(smi, tmp_path) -> None:
    """The paper's CIFAR recipe begun on one GPU, goes on on two; the other way it says no."""
    from ablations import files

    recipe = {"replicas": 2, "bn_batch": 64}
    for first, then, outcome in ((1, 2, (1, 2)), (2, 4, (2, 2)), (2, 1, None)):
        smi(*[H100] * first)
        out = tmp_path / f"{first}{then}"
        begun = plan("shortcuts", out=out, recipe=recipe, threads=1)
        out.mkdir()
        files.write_signed(out / "grid.json", begun.grid_json())
        smi(*[H100] * then)
        if outcome is None:
            with pytest.raises(ablations.UserError, match="over 2 GPUs, there are 1"):
                plan("shortcuts", out=out, recipe=recipe)
        else:
            on = plan("shortcuts", out=out, recipe=recipe)
            assert (on.platform.replicas, on.jobs) == outcome
            assert [c.identity for c in on.cells] == [c.identity for c in begun.cells]


def test_an_nvidia_smi_that_fails_is_no_reason_to_train_on_the_processor(
    smi, tmp_path, monkeypatch
) -> None:
    smi(H100)
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho Driver mismatch; exit 18\n")
    with pytest.raises(ablations.UserError, match=r"fails \(Driver mismatch\)"):
        devices.choose(None)
    assert devices.choose("cpu").gpus == ()


def test_mig_slices_and_beginnings_of_uuids(smi, monkeypatch) -> None:
    smi(H100, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-3f1a")
    (found,) = devices.find_gpus()
    assert (found.uuid, found.model) == ("MIG-3f1a", f"MIG slice of {H100}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0001")
    assert [gpu.index for gpu in devices.find_gpus()] == ["1"]


def test_more_jobs_than_gpus(smi, tmp_path) -> None:
    smi(H100)
    with pytest.raises(ablations.UserError, match="1 GPUs hold 1 cells"):
        quick(tmp_path, jobs=2)


def test_cpu_replicas(tmp_path) -> None:
    planned = quick(tmp_path, cpu_replicas=2)
    platform = planned.platform
    assert (platform.kind, platform.strategy, platform.replicas) == ("cpu", "mirrored", 2)
    for options, words in (
        ({"cpu_replicas": 3}, "batch 128 cannot be shared by 3 replicas"),
        ({"cpu_replicas": 2, "strategy": "none"}, "leave --strategy none away"),
        ({"cpu_replicas": 0}, "--cpu_replicas takes a positive"),
        ({"cpu_replicas": 4, "recipe": {"bn_batch": 64}}, "no multiple of recipe.bn_batch 64"),
    ):
        with pytest.raises(ablations.UserError, match=words):
            quick(tmp_path, **options)


def test_jobs_are_bounded_by_cores_and_memory(tmp_path, monkeypatch) -> None:
    import ablations.placement as module

    monkeypatch.setattr(environment, "cpu_count", lambda: 64)
    planned = quick(tmp_path, devices="cpu")
    largest = max(map(cell_bytes, planned.arms))
    assert planned.jobs == min(12, int(0.7 * total_memory() // largest))
    monkeypatch.setattr(module, "total_memory", lambda: int(2.1 * largest / 0.7))
    assert quick(tmp_path, devices="cpu").jobs == 2
    monkeypatch.setattr(module, "total_memory", lambda: 1)
    assert quick(tmp_path, devices="cpu").jobs == 1
