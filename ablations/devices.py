"""Which processors there are, found without TensorFlow, and who gets which."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ablations.environment import cpu_model
from ablations.errors import UserError
from reszoo.errors import unknown


@dataclass(frozen=True)
class Gpu:
    """One GPU, as nvidia-smi lists it.

    Attributes:
        index: its number for CUDA_VISIBLE_DEVICES.
        uuid: its other name there.
        model: e.g. "NVIDIA H100 80GB HBM3".
        memory: in bytes; 0 where nvidia-smi does not know.
        driver: version of the driver.
    """

    index: str
    uuid: str
    model: str
    memory: int
    driver: str


@dataclass(frozen=True)
class Hardware:
    """The devices that a grid may use.

    Attributes:
        gpus: empty on CPU.
        model: of the GPU or the processor; part of a cell's identity.
    """

    gpus: tuple[Gpu, ...]
    model: str

    def groups(self, replicas: int) -> list[str]:
        """Return CUDA_VISIBLE_DEVICES for each cell that fits beside the others."""
        ids = [gpu.uuid for gpu in self.gpus]  # indices depend on CUDA_DEVICE_ORDER
        return [
            ",".join(ids[start : start + replicas])
            for start in range(0, len(ids) - replicas + 1, replicas)
        ]


def find_gpus(environment: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves visible.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names a GPU that nvidia-smi does not list.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    gpus = _nvidia_smi()
    if visible is None or not gpus:
        return gpus
    return _select(gpus, visible, "CUDA_VISIBLE_DEVICES")


def choose(devices: str | None) -> Hardware:
    """Return the hardware that `--devices` asks for.

    Args:
        devices: None (all GPUs, or the processor without any), "cpu", "gpu", or GPU numbers or
            UUIDs separated by commas.

    Raises:
        UserError: a GPU was asked for that is not there, or the GPUs are of several models.
    """
    if devices == "cpu":
        return Hardware((), cpu_model())
    gpus = find_gpus()
    if devices not in (None, "gpu", "all"):
        gpus = _select(gpus, str(devices), "--devices")
    if not gpus:
        if devices is not None:
            raise UserError(f"--devices {devices}: nvidia-smi finds no GPU here; use --devices cpu")
        return Hardware((), cpu_model())
    models = sorted({gpu.model for gpu in gpus})
    if len(models) > 1:
        raise UserError(
            f"the GPUs are of different models ({', '.join(models)}), which would not be matched; "
            "choose some of one model with --devices 0,1"
        )
    return Hardware(gpus, models[0])


def _select(gpus: tuple[Gpu, ...], wanted: str, where: str) -> tuple[Gpu, ...]:
    names = {gpu.index: gpu for gpu in gpus} | {gpu.uuid: gpu for gpu in gpus}
    chosen = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if name.startswith("MIG-") and gpus:
            first = gpus[0]
            model = f"MIG slice of {first.model}"
            chosen.append(Gpu(name, name, model, first.memory, first.driver))
            continue
        longer = [uuid for uuid in names if name.startswith("GPU-") and uuid.startswith(name)]
        if len(longer) == 1:  # CUDA takes a unique beginning of a UUID
            name = longer[0]
        if name not in names:
            raise UserError(f"{where}: {unknown('GPU', name, [g.index for g in gpus] or ['cpu'])}")
        chosen.append(names[name])
    return tuple(dict.fromkeys(chosen))


def _nvidia_smi() -> tuple[Gpu, ...]:
    if not shutil.which("nvidia-smi"):
        return ()
    fields = "index,uuid,name,memory.total,driver_version"
    try:
        output = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True, timeout=30,
        ).stdout  # fmt: skip
    except (subprocess.SubprocessError, OSError) as error:
        first = " ".join(str(getattr(error, "stdout", "") or error).split())
        raise UserError(
            f"nvidia-smi is here but fails ({first}); mend it, or use --devices cpu"
        ) from None
    gpus = []
    for line in output.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 5:
            memory = int(parts[3]) * 2**20 if parts[3].isdigit() else 0  # "[N/A]": shared memory
            gpus.append(Gpu(parts[0], parts[1], parts[2], memory, parts[4]))
    return tuple(gpus)
