"""One cell in a process of its own: `python -m ablations.train CELL DATA`.

Started by the runner, which fixes threads and devices in the environment before TensorFlow is
imported. Ends when the runner ends: standard input is a pipe whose other end only the runner holds.

Exit status: 0 done, 3 failed (failure.json says why), 75 the disk is full, 143 stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from ablations import cell_files, files
from ablations.errors import UserError

EXIT_DISK_FULL = 75
#: How long a cell waits for another process of its own that should be gone.
ORPHAN_SECONDS = 300.0


def _end_with_parent() -> None:
    """Exit when the runner is gone, so that no orphan writes into a directory that others own."""

    def wait() -> None:
        while sys.stdin.buffer.read(1):
            pass
        os._exit(143)

    threading.Thread(target=wait, daemon=True, name="parent").start()


def main(directory: Path, data_directory: Path) -> int:
    """Run one cell; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    _end_with_parent()
    from ablations.cell import CellFailure, CellRun

    _forget_settings()
    try:
        # An orphan of a killed runner may need a while to notice that it is one, on a busy machine.
        with files.lock(directory / ".lock", wait=ORPHAN_SECONDS):
            files.sweep(directory)
            # The runner has removed these; an orphan may have written them since.
            for name in ("manifest.json", "failure.json"):
                (directory / name).unlink(missing_ok=True)
            CellRun(directory, data_directory).run()
        return 0
    except files.Locked as error:
        reason, text = f"another process trains this cell: {error}", ""
    except (CellFailure, UserError) as error:
        reason, text = str(error), ""
    except MemoryError:
        reason, text = "out of memory", traceback.format_exc()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in files.DISK_FULL:
            _say(f"the disk is full: {error}")
            return EXIT_DISK_FULL
        first_line = str(error).strip().splitlines() or [""]
        reason, text = f"{type(error).__name__}: {first_line[0][:300]}", traceback.format_exc()
    _say(f"failed: {reason}\n{text}")
    cell_files.write_failure(directory, reason, text)
    return 3


def _forget_settings() -> None:
    """Undo ~/.keras/keras.json: a cell is the same on every machine."""
    import keras

    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)


def _say(text: str) -> None:
    """Print to the log, which a full disk must not turn into another end."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    # os._exit: TensorFlow's threads and the stdin reader need no orderly end, and it is faster.
    status = main(Path(sys.argv[1]), Path(sys.argv[2]))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)
