"""Random valid specs: the axes of ResNetSpec with values small enough to build in a second."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from reszoo import ResNetSpec, SpecError, plan
from reszoo.specs import CHOICES

Fields = dict[str, Any]

SMALL: Fields = {
    "depths": (1, 2),
    "widths": (8, 16),
    "norm_groups": 4,
    "classes": 5,
    "input_shape": (32, 32, 3),
}
#: Networks that the pairs of axes start from.
BASES: dict[str, Fields] = {
    "cifar-basic": {**SMALL, "stem": "cifar", "block": "basic"},
    "cifar-bottleneck": {**SMALL, "stem": "cifar", "block": "bottleneck"},
    "imagenet-bottleneck": {**SMALL, "stem": "imagenet", "block": "bottleneck"},
}

#: Every field but `name` and the number of stages, with values worth telling apart.
AXES: dict[str, tuple[Any, ...]] = {
    **CHOICES,
    "depths": ((1, 2), (2, 1)),
    "widths": ((8, 16), (8, 8), (16, 8)),
    "stem_width": (8, 16, 12),
    "expansion": (1, 2, 4),
    "groups": (1, 2, 8),
    "width_per_group": (64, 16, 128),
    "first_reduction": (1, 2),
    "shortcut_kernel": (1, 3),
    "shortcut_scale": (0.5, 1.0),
    "residual_scale": (1.0, 0.5),
    "gate_bias": (-6.0, 0.0),
    "shortcut_dropout": (0.5, 0.0),
    "se_ratio": (1 / 16, 0.25),
    "se_divisor": (8, 1),
    "attention_relu": (False, True),
    "norm_groups": (4, 8),
    "norm_epsilon": (1e-5, 1e-3),
    "norm_momentum": (0.9, 0.99),
    "weight_standardization": (False, True),
    "weight_epsilon": (1e-8, 1e-5),
    "block_dropout": (0.0, 0.3),
    "stochastic_depth": (0.0, 0.5),
    "dropout": (0.0, 0.2),
    "zero_gamma": (False, True),
    "output_stride": (None, 1, 2, 4),
    "classes": (5, 0),
    "input_shape": ((32, 32, 3), (33, 32, 1), (None, None, 3)),
}
#: What must be on for a field to matter.
ENABLERS: dict[str, Fields] = {
    "preact_split": {"activation_order": "pre", "shortcut": "A"},
    "shortcut_pad": {"shortcut": "A"},
    "shortcut_pool": {"shortcut": "A"},
    "shortcut_scale": {"shortcut": "scaled"},
    "gate_bias": {"shortcut": "shortcut_gate"},
    "shortcut_dropout": {"shortcut": "dropout"},
    "se_ratio": {"attention": "se", "se_divisor": 1},
    "se_divisor": {"attention": "se"},
    "attention_relu": {"attention": "se"},
    "norm_groups": {"norm": "group"},
    "weight_epsilon": {"weight_standardization": True},
    "conv_bias": {"activation_order": "pre"},
}


def valid(fields: Fields) -> bool:
    """Return whether fields make a network whose plan can be written."""
    try:
        plan(ResNetSpec(**fields))
    except SpecError:
        return False
    return True


def assemble(pick: Callable[[Sequence[Any]], Any]) -> ResNetSpec:
    """Return a valid spec; `pick` chooses one of several values.

    Every axis is tried in turn and a value that contradicts the earlier ones is left out. Half
    of the axes keep their default, so that one contradiction does not rule out most others.
    """
    fields = dict(BASES[pick(sorted(BASES))])
    for name, values in AXES.items():
        if pick((False, True)):
            changed = {**fields, name: pick(values)}
            fields = changed if valid(changed) else fields
    return ResNetSpec(**fields)


def random_spec(seed: int) -> ResNetSpec:
    """Return the valid spec that belongs to a seed."""
    return assemble(random.Random(seed).choice)


@st.composite
def specs(draw: st.DrawFn) -> ResNetSpec:
    """Draw valid specs."""
    return assemble(lambda values: draw(st.sampled_from(values)))
