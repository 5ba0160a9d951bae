"""Files that survive a crash: written whole or not at all, and checked when read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

#: What the system says when there is no room left.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(path: Path, data: bytes | str, sync: bool = True) -> None:
    """Write a file so that it holds either the old or the new content, whatever happens.

    Same-directory temporary, fsync, os.replace, fsync of the directory.

    Args:
        path: the file.
        data: its content.
        sync: False skips both fsyncs, for files whose loss costs nothing (progress).
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, sync: bool = True) -> None:
    """Write JSON as `write` does: indented, keys as given, no NaN."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", sync)


def read_json(path: Path) -> Any:
    """Return the JSON of a file.

    Raises:
        ValueError: it is not JSON; the message names the file.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _no_number(text: str) -> None:
    """Refuse NaN and infinities, which JSON does not have and `write_json` never writes."""
    raise ValueError(f"{text} is no number")


def write_signed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON mapping with the SHA-256 of its content, which `read_signed` checks."""
    write_json(path, {**value, "sha256": sha256(canonical(value))})


def read_signed(path: Path) -> dict[str, Any]:
    """Return what `write_signed` wrote, without the hash.

    Raises:
        ValueError: it is not JSON, or has changed since; the message names the file.
        OSError: it cannot be read.
    """
    return verified(path, read_json(path))


def verified(path: Path, value: Any) -> dict[str, Any]:
    """Return the content of a file of `write_signed`, already read, without the hash.

    Raises:
        ValueError: it has changed since it was written; the message names the file.
    """
    found = value.pop("sha256", None) if isinstance(value, dict) else None
    if found is None or found != sha256(canonical(value)):
        raise ValueError(f"{path} has changed since it was written")
    return value


def sweep(directory: Path) -> None:
    """Remove the temporaries that a killed process left; only under the directory's lock."""
    for pattern in (".*.tmp", ".saving.*"):
        for path in directory.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def canonical(value: Any) -> str:
    """Return the one JSON text that equal values share, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(data: bytes | str) -> str:
    """Return the SHA-256 of bytes or text, in hex."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locked(path: Path) -> bool | None:
    """Return whether a process holds a lock; None where that cannot be told from here.

    File systems without locks, and shared ones whose locks other hosts do not see, do not tell.
    """
    try:
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            # A holder that was killed leaves its name: what another host locks may not show here.
            holder = file.read()
            return None if holder and not holder.endswith(f" on {socket.gethostname()}") else False
    except OSError:
        return None


class Locked(Exception):
    """Somebody else holds the lock; the message names pid and host."""


@contextlib.contextmanager
def lock(path: Path, wait: float = 0.0) -> Iterator[IO[str]]:
    """Hold an exclusive lock that the kernel drops when this process dies.

    Args:
        path: of the lock's file; it stays.
        wait: seconds to wait for another holder to go.

    Raises:
        Locked: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(0.05)
                    continue
                file.seek(0)
                raise Locked(file.read().strip() or "another process") from None
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield file
        # The content goes, the file stays: unlinking it would let two holders in.
        file.seek(0)
        file.truncate()
