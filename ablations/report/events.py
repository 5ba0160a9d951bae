"""TensorBoard's event files, written without TensorFlow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams.metadata import NULL_TENSOR
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util


def event_files(directory: Path, kind: str) -> list[Path]:
    """Return the event files of one kind that `EventFile` has left in a directory."""
    return sorted(directory.glob(f"events.out.tfevents.*.ablations-{kind}"))


def tensor(
    tag: str, metadata: summary_pb2.SummaryMetadata, content: bytes | None = None
) -> summary_pb2.Summary:
    """Return a summary of one string, or of metadata alone."""
    value = NULL_TENSOR if content is None else tensor_util.make_tensor_proto(content)
    return summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=value)]
    )


class EventFile:
    """One event file. Several kinds in one directory are one run of TensorBoard.

    Args:
        directory: made if missing.
        kind: of the file; becomes the end of its name.
        restarts: whether a TensorBoard that is showing this directory forgets its steps from 1 on.
    """

    def __init__(self, directory: Path, kind: str, restarts: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._older = event_files(directory, kind)
        # TensorBoard reads a directory in the order of names and does not go back.
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}.ablations-{kind}"
        # Unbuffered: a record is one write, and a killed process loses none.
        self._file = open(directory / name, "xb", buffering=0)  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if restarts:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(event_pb2.Event(wall_time=time.time(), step=1, session_log=start))

    def _write(self, event: event_pb2.Event) -> None:
        self._records.write(event.SerializeToString())

    def write(
        self, summary: summary_pb2.Summary, step: int = 0, wall_time: float | None = None
    ) -> None:
        """Append one summary."""
        when = time.time() if wall_time is None else wall_time
        self._write(event_pb2.Event(wall_time=when, step=step, summary=summary))

    def replace_older(self) -> None:
        """Remove the older files of this kind, now that this one holds what they held."""
        for path in self._older:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._records.close()
