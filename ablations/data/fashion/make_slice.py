"""Make slice.npz from the four official Fashion-MNIST files.

    python -m ablations.data.fashion.make_slice [DIRECTORY] [--out FILE]

Takes the first 1,000 images of each class of the official training split and the first 200 of
each class of the official test split, in original order. The same input and zlib give the same
bytes: the zip entries carry a fixed date and no file attributes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ablations.data.base import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist installs the files."""

PARTS = {"train": ("train", 1000), "test": ("t10k", 200)}
"""Part -> prefix of its official files, images taken of each class."""

CLASSES = 10


def main() -> None:
    """Command line; prints the SHA-256 of the input files and of the slice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=DEBIAN)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "slice.npz")
    arguments = parser.parse_args()
    try:
        content = pack(cut(arguments.directory))
    except DataError as error:
        parser.exit(2, f"{error}\n")
    arguments.out.write_bytes(content)
    for path in sorted(arguments.directory.glob("*-ubyte.gz")):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    print(hashlib.sha256(content).hexdigest(), arguments.out, f"({len(content):,} bytes)")


def cut(directory: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Array name -> uint8 array: {part}_images (n, 28, 28) and {part}_labels (n,)."""
    arrays = {}
    for part, (prefix, per_class) in PARTS.items():
        images = read_idx(directory / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(directory / f"{prefix}-labels-idx1-ubyte.gz")
        taken = np.sort(
            np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(CLASSES)])
        )
        if len(taken) != CLASSES * per_class or len(images) != len(labels):
            raise DataError(f"{directory}: {prefix} files are not those of Fashion-MNIST")
        arrays[f"{part}_images"] = images[taken]
        arrays[f"{part}_labels"] = labels[taken]
    return arrays


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """A gzipped idx file of unsigned bytes; raises DataError naming it if it is anything else."""
    try:
        content = gzip.decompress(path.read_bytes())
        zero, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if (zero, kind) != (0, 0x08):
            raise ValueError("not an idx file of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path}: not an official Fashion-MNIST file ({error})") from error


def pack(arrays: dict[str, npt.NDArray[np.uint8]]) -> bytes:
    """The arrays as the bytes of an .npz file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            member = io.BytesIO()
            np.save(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(entry, member.getvalue(), compresslevel=9)
    return stream.getvalue()


if __name__ == "__main__":
    main()
