"""Mutated weight files: a WeightFileError or a sound result, whatever the bytes.

Five readers, 10,000 inputs each, by a fixed seed (RESZOO_FUZZ_SEED and RESZOO_FUZZ_INPUTS change
it), each reader in a process of its own, which may take MEMORY more than at its start, by the
kernel's count, and LIMIT seconds an input. Half of the inputs are files with changed bytes; in the
other half the inner structure (opcodes, JSON, array header) is changed and the container is made
anew around it, with right sizes and checksums, so that the change is not caught at the door. About
15 s on one core. By hand: python tests/test_reader_fuzz.py npz
"""

from __future__ import annotations

import io
import json
import os
import pickletools
import random
import resource
import signal
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import forged_files as forged
import h5py
import numpy as np
import pytest
from conftest import ROOT

from reszoo.weights.readers import WeightFileError, open_weights

SEED = int(os.environ.get("RESZOO_FUZZ_SEED", "20251125"))
INPUTS = int(os.environ.get("RESZOO_FUZZ_INPUTS", "10000"))
MEMORY = 64 * 2**20
LIMIT = 5.0

NUMBERS = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31]
NUMBERS += [2**32 - 1, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 1]
WIDENED = {"float16": "float32", "bfloat16": "float32"}


def hdf5_seed(version: object, chunked: bool, many: bool) -> bytes:
    target = io.BytesIO()
    with h5py.File(target, "w", libver=version) as file:
        for name, array in forged.seed_arrays().items():
            file[name] = array
        for i in range(12 if many else 0):
            file[f"w{i}"] = np.float32(i)
        if chunked:
            data = np.arange(40, dtype="f4").reshape(10, 4)
            options = {"chunks": (4, 4), "compression": "gzip", "shuffle": True}
            file.create_dataset("chunked", data=data, **options)
    return target.getvalue()


def npz_seed(compression: int) -> bytes:
    target = io.BytesIO()
    save = np.savez_compressed if compression else np.savez
    save(target, **forged.seed_arrays())
    return target.getvalue()


ARRAYS = forged.seed_arrays()
SEEDS: dict[str, list[bytes]] = {
    "torch-zip": [forged.torch_seed(ARRAYS, legacy=False)],
    "torch-legacy": [forged.torch_seed(ARRAYS, legacy=True)],
    "safetensors": [forged.safetensors_seed(ARRAYS)],
    "hdf5": [
        hdf5_seed(None, chunked=False, many=False),
        hdf5_seed(None, chunked=True, many=False),
        hdf5_seed(("v108", "v108"), chunked=True, many=True),
    ],
    "npz": [npz_seed(zipfile.ZIP_STORED), npz_seed(zipfile.ZIP_DEFLATED)],
}

# Mutations of bytes


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at : at + 1] = bytes([rng.randrange(256)])


def truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def remove(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 40)]


def repeat(rng: random.Random, data: bytearray) -> None:
    at, to = rng.randrange(len(data)), rng.randrange(len(data))
    data[to:to] = data[at : at + rng.randint(1, 40)] * rng.choice((1, 1, 3, 50))


def splice(rng: random.Random, data: bytearray) -> None:
    other = rng.choice(SEEDS[rng.choice(list(SEEDS))])
    at, start = rng.randrange(len(data)), rng.randrange(len(other))
    size = rng.randint(1, 200)
    data[at : at + size] = other[start : start + size]


def set_number(rng: random.Random, data: bytearray) -> None:
    """Overwrite what may be a length, a count or an address."""
    code, size = rng.choice((("<H", 2), ("<I", 4), ("<I", 4), ("<Q", 8), ("<Q", 8)))
    at = rng.randrange(max(1, len(data) - size))
    if rng.random() < 0.5:
        at = at // size * size
    if at + size > len(data):
        return
    (old,) = struct.unpack_from(code, data, at)
    near = old + rng.choice((-8, -1, 1, 8, old, rng.randrange(len(data))))
    new = near if rng.random() < 0.5 else rng.choice((*NUMBERS, len(data), at))
    struct.pack_into(code, data, at, new % 2 ** (8 * size))


BYTES = [flip, flip, overwrite, truncate, remove, repeat, splice, set_number, set_number]


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            rng.choice(BYTES)(rng, data)
    return bytes(data)


# Mutations of the inner structure


def opcodes(payload: bytes) -> list[bytes]:
    at = [position for _, _, position in pickletools.genops(payload)]
    return [payload[a:b] for a, b in zip(at, [*at[1:], len(payload)], strict=True)]


PICKLE = zipfile.ZipFile(io.BytesIO(SEEDS["torch-zip"][0])).read("n/data.pkl")
LEGACY = SEEDS["torch-legacy"][0]
LEGACY_AT = len(forged.LEGACY_HEAD)
LEGACY_END = LEGACY.index(b".\x80\x02](", LEGACY_AT) + 1
TOKENS = {"torch-zip": opcodes(PICKLE), "torch-legacy": opcodes(LEGACY[LEGACY_AT:LEGACY_END])}
STRANGE = [bytes([code]) for code in range(256)]
STRANGE += [forged.name("os", "system"), forged.name("builtins", "eval"), b"h\x00", b"q\x00", b"0"]
STRANGE += [forged.value(n) for n in (*NUMBERS, -1, -(2**63), None, True, 1.5, "0", (1, 2), [], {})]


def mutate_pickle(rng: random.Random, kind: str) -> bytes:
    tokens = list(TOKENS[kind])
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, to = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        action = rng.randrange(6)
        if action == 0:
            tokens[at] = rng.choice(STRANGE)
        elif action == 1:
            tokens.insert(at, rng.choice(STRANGE))
        elif action == 2 and len(tokens) > 2:
            del tokens[at]
        elif action == 3:
            tokens[at], tokens[to] = tokens[to], tokens[at]
        elif action == 4:
            tokens[to:to] = tokens[at : at + rng.randint(1, 30)] * rng.choice((1, 1, 2, 20))
        elif tokens[at][:1] == b"K":
            tokens[at] = forged.value(rng.choice(NUMBERS))
    payload = b"".join(tokens)
    if kind == "torch-legacy":
        return LEGACY[:LEGACY_AT] + payload + LEGACY[LEGACY_END:]
    return forged.torch_zip(payload, {str(k): a.tobytes() for k, a in enumerate(ARRAYS.values())})


def mutate_json(rng: random.Random, _: str) -> bytes:
    content = SEEDS["safetensors"][0]
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 2))):
        label = rng.choice(list(header))
        odd = rng.choice((*NUMBERS, -1, 1.5, None, True, "F32", "BF16", "U8", [], {}, [1, 2], "x"))
        info = header[label]
        action = rng.randrange(6)
        if action == 0:
            header[label] = odd
        elif action == 1:
            del header[label]
        elif action == 2:
            header[str(odd)] = info
        elif isinstance(info, dict) and info:
            key = rng.choice(list(info))
            if action == 3 or not isinstance(info[key], list) or not info[key]:
                info[key] = odd
            else:
                info[key][rng.randrange(len(info[key]))] = odd
        if not header:
            break
    text = bytearray(json.dumps(header).encode())
    if rng.random() < 0.3:
        rng.choice(BYTES)(rng, text)
    return forged.safetensors(bytes(text), content[8 + length :])


NPY_WORDS = ["descr", "fortran_order", "shape", "True", "False", "'<f4'", "'>f8'", "'|O'", "(", ")"]
NPY_WORDS += [
    "{",
    "}",
    ",",
    ":",
    "'",
    "0",
    "6",
    "-1",
    "(2, 3)",
    "()",
    "L",
    "[",
    "\n",
    "é",
    "9" * 30,
]


def mutate_npy(rng: random.Random, _: str) -> bytes:
    header = forged.npy_header()
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(header))
        cut = at + rng.choice((0, 1, 2, 6))
        header = header[:at] + rng.choice(NPY_WORDS) + header[cut:]
    member = bytearray(forged.npy(header, version=rng.choice(((1, 0), (1, 0), (2, 0), (3, 0)))))
    if rng.random() < 0.3:
        rng.choice(BYTES)(rng, member)
    compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    return forged.zipped([("w.npy", bytes(member))], compression)


def mutate_hdf5(rng: random.Random, _: str) -> bytes:
    """Nothing in these files guards against change but the end of file: only numbers are set."""
    data = bytearray(rng.choice(SEEDS["hdf5"]))
    set_number(rng, data)
    return bytes(data)


INNER: dict[str, Callable[[random.Random, str], bytes]] = {
    "torch-zip": mutate_pickle,
    "torch-legacy": mutate_pickle,
    "safetensors": mutate_json,
    "hdf5": mutate_hdf5,
    "npz": mutate_npy,
}


class TooSlow(BaseException):
    """Not TimeoutError: that is an OSError, which a reader turns into its own error."""


def bound_this_process() -> None:
    """Let this process have MEMORY bytes more than now; SIGALRM raises TooSlow."""

    def too_slow(_: int, frame: FrameType | None) -> None:
        raise TooSlow(f"an input took {LIMIT} s")

    signal.signal(signal.SIGALRM, too_slow)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd_create")


class Target:
    """A file in memory: rewriting one on a disk 50,000 times would take minutes."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("fuzz")
        self.path = Path(f"/proc/self/fd/{self.descriptor}")

    def write(self, content: bytes) -> None:
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, content, 0)


def outcome(target: Target, content: bytes) -> str:
    """Read everything in `content`; return "refused" or "read". Anything else is an error."""
    target.write(content)
    path = target.path
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with open_weights(path) as weights:
            for name, shape in weights.shapes.items():
                array = weights.read(name)
                stored = weights.dtypes[name]
                assert array.shape == shape and array.dtype.name == WIDENED.get(stored, stored)
    except WeightFileError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path))
        return "refused"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def campaign(kind: str) -> dict[str, int]:
    """Read INPUTS mutated files; return how many ended how, by kind of mutation."""
    rng = random.Random(f"{SEED} {kind}")
    target = Target()
    for seed in SEEDS[kind]:
        assert outcome(target, seed) == "read" and len(seed) < 16_000
    counts: Counter[str] = Counter()
    bound_this_process()
    for number in range(INPUTS):
        inner = bool(number % 2)
        seed = rng.choice(SEEDS[kind])
        content = INNER[kind](rng, kind) if inner else mutate_bytes(rng, seed)
        try:
            counts[f"{'inner' if inner else 'bytes'} {outcome(target, content)}"] += 1
        except BaseException:
            print(f"{kind}, seed {SEED}, input {number}:", file=sys.stderr)
            raise
    return dict(counts)


def bounds() -> dict[str, int]:
    """Return which bounds bind."""
    bound_this_process()
    found = {"memory": 0, "time": 0}
    try:
        np.empty(MEMORY + 2**20, dtype=np.uint8)
    except MemoryError:
        found["memory"] = 1
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        signal.pause()
    except TooSlow:
        found["time"] = 1
    return found


def in_child(task: str) -> dict[str, int]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, __file__, task],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, int] = json.loads(done.stdout)
    return result


@LINUX
def test_the_bounds_bind() -> None:
    """Otherwise the fuzz test below could not notice a bomb or a hang."""
    assert in_child("bounds") == {"memory": 1, "time": 1}


@LINUX
@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files(kind: str) -> None:
    counts = in_child(kind)
    assert sum(counts.values()) == INPUTS
    # Both mutators reach both ends; otherwise the mutations are too crude or too meek.
    assert len(counts) == 4 and min(counts.values()) > INPUTS // 2000, counts


if __name__ == "__main__":
    print(json.dumps(bounds() if sys.argv[1] == "bounds" else campaign(sys.argv[1])))
