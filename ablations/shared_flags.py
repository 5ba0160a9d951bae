"""Flags that `ablations.run` and `ablations.report` share: what a table is asked for."""

from __future__ import annotations

from absl import flags


def margin(values: flags.FlagValues) -> flags.FlagHolder[float | None]:
    """Define --margin."""
    return flags.DEFINE_float(
        "margin",
        None,
        "judge equivalence within so many percentage points",
        flag_values=values,
    )


def detect(values: flags.FlagValues) -> flags.FlagHolder[float | None]:
    """Define --detect."""
    return flags.DEFINE_float(
        "detect",
        None,
        "say how many seeds would show a difference of so many percentage points",
        flag_values=values,
    )


def baseline(values: flags.FlagValues) -> flags.FlagHolder[str | None]:
    """Define --baseline."""
    return flags.DEFINE_string(
        "baseline", None, "arm that the others are compared with", flag_values=values
    )
