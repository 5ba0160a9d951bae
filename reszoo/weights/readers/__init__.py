"""Safe readers of weight files that others wrote: torch, safetensors, HDF5, npz.

No code in a file can run, no name is imported, and nothing is allocated that the file's own size
does not cover. Neither torch, TensorFlow, Keras nor the HDF5 library takes part.
"""

from __future__ import annotations

import os

from reszoo.weights.readers import hdf5, npz, pytorch, safetensors
from reszoo.weights.readers._base import (
    Contents,
    Refused,
    Source,
    WeightFile,
    WeightFileError,
    refusing,
)
from reszoo.weights.readers._zip import Archive

__all__ = ["WeightFile", "WeightFileError", "open_weights"]

_SUPPORTED = "torch (.pth .th .pt .bin), safetensors, HDF5 (.h5), npz"
# What people meet instead of a weight file, and what to do about it.
_OTHERS = (
    (b"\x1f\x8b", "gzip-compressed data; unpack it first"),
    (b"\xfd7zXZ", "xz-compressed data; unpack it first"),
    (b"BZh", "bzip2-compressed data; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data; unpack it first"),
    (b"\x93NUMPY", "a single .npy array; save named arrays with numpy.savez"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file that it stands for"),
    (b"<", "a page of HTML or XML: a failed download"),
)


def open_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Open a weight file; the format is told by its content, never by its name.

    All structures are checked here; arrays are read by `WeightFile.read`.

    Raises:
        WeightFileError: it cannot be read, is of no supported kind, damaged or hostile.
    """
    name = os.fspath(path)
    source = refusing(name, lambda: Source(name))
    try:
        kind, contents = refusing(name, lambda: _read(source))
    except BaseException:
        source.close()
        raise
    return WeightFile(name, kind, source, contents)


def _read(source: Source) -> tuple[str, Contents]:
    """Return the format's name and what is in the file."""
    head = source.read(0, min(source.size, 512))
    if head.startswith(b"PK\3\4"):
        archive = Archive(source)
        names = list(archive.members)
        if any(name.endswith("/data.pkl") for name in names):
            return "torch-zip", pytorch.read_zip(source, archive)
        if names and all(name.endswith(".npy") for name in names):
            return "npz", npz.read(archive)
        if "model.weights.h5" in names:
            raise Refused("a .keras archive; extract its model.weights.h5, or use reszoo.load")
        raise Refused("a zip archive that is neither torch's (NAME/data.pkl) nor npz (*.npy)")
    if head.startswith(pytorch.LEGACY_MAGIC):
        return "torch-legacy", pytorch.read_legacy(source)
    if head.startswith(hdf5.SIGNATURE):
        return "hdf5", hdf5.read(source)
    if head[257:262] == b"ustar":
        raise Refused(
            "a tar archive (torch's oldest format, which is not read: loading it can run code); "
            "in a sandbox, torch.load it and torch.save its state dict again"
        )
    # Before the magic numbers below: a header's length may begin with the bytes of any of them.
    if safetensors.is_safetensors(source):
        return "safetensors", safetensors.read(source)
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise Refused(f"{what}. Supported: {_SUPPORTED}")
    if head[:1] == b"\x80" and head[1:2] in (b"\0", b"\1", b"\2", b"\3", b"\4", b"\5"):
        raise Refused(f"a plain pickle, no torch file; it is not loaded. Supported: {_SUPPORTED}")
    found = f"begins with {head[:8].hex(' ')}" if head else "is empty"
    raise Refused(f"no known weight file ({found}). Supported: {_SUPPORTED}")
