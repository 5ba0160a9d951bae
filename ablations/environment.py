"""What a run depends on besides its configuration: versions, machine, code state.

Nothing here imports TensorFlow; the parent process and the cells share it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PACKAGES = ("tensorflow", "keras", "numpy", "h5py", "tensorboard", "scipy", "pillow")

#: Environment variables that can change a result; the rest is never recorded (it holds secrets).
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "KERAS_BACKEND",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_USE_LEGACY_KERAS",
    "XLA_FLAGS",
)
#: The same by how they begin: instruction sets, algorithms and precision of the libraries below.
_FAMILIES = ("CUBLAS_", "CUDNN_", "DNNL_", "ONEDNN_", "TF_CUDNN_", "TF_ENABLE_CU", "TF_ONEDNN_",
             "TF_XLA_")  # fmt: skip
#: Of these: where libraries lie, and what they print.
_NOISE = re.compile("PATH|ROOT|DIR|LOG|VERBOSE|DUMP|PROFIL")


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_count() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of what computes the results."""
    import reszoo

    found = {"python": platform.python_version(), "reszoo": reszoo.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version_line() -> str:
    """Return the line that --version prints."""
    found = versions()
    names = ("reszoo", "tensorflow", "keras")
    return ", ".join(f"{name} {found.get(name, 'not installed')}" for name in names)


def describe() -> dict[str, Any]:
    """Return the environment of this process for a record."""
    record: dict[str, Any] = {
        "versions": versions(),
        "os": platform.platform(),
        "host": socket.gethostname(),
        "cpu": cpu_model(),
        "cpus": cpu_count(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name in _VARIABLES or (name.startswith(_FAMILIES) and not _NOISE.search(name))
        },
    }
    if "h5py" in sys.modules:
        record["versions"]["hdf5"] = sys.modules["h5py"].version.hdf5_version
    return record


def _sources(package: Path) -> Iterator[Path]:
    """Yield the files of a package's code; what begins with a dot belongs to an editor."""
    for directory, below, names in os.walk(package):
        below[:] = [name for name in below if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            path = Path(directory, name)
            if path.suffix in (".py", ".yaml") and not name.startswith(".") and path.is_file():
                yield path


def code_state() -> dict[str, Any]:
    """Return which code runs: the hash of its sources, and the commit where git knows it."""
    root = Path(__file__).resolve().parent.parent
    hasher = hashlib.sha256()
    for package in ("reszoo", "ablations"):
        for path in sorted(_sources(root / package)):
            hasher.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    state: dict[str, Any] = {"sources_sha256": hasher.hexdigest()}
    if not shutil.which("git") or not (root / ".git").exists():
        return state

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=True, timeout=20
        ).stdout

    try:
        state["commit"] = git("rev-parse", "HEAD").decode().strip()
        changes = git("diff", "HEAD", "--", "reszoo", "ablations")
        state["changes_sha256"] = hashlib.sha256(changes).hexdigest() if changes else None
    except (subprocess.SubprocessError, OSError):
        pass
    return state
