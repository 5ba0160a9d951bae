"""Processes that a benchmark measures side by side: one a contender, told when by its stdin."""

from __future__ import annotations

import os
import subprocess
import sys


def start(arguments: list[str], threads: int, onednn: str | None = "1") -> subprocess.Popen[str]:
    """Start a Python program on the processor, with pipes to its stdin and stdout.

    Args:
        arguments: of the interpreter: the script, and what it takes.
        threads: of TensorFlow and OpenMP.
        onednn: TF_ENABLE_ONEDNN_OPTS; None: TensorFlow's default.
    """
    environment = {
        **os.environ,
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    environment.pop("TF_ENABLE_ONEDNN_OPTS", None)
    if onednn is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = onednn
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment, text=True,
    )  # fmt: skip
