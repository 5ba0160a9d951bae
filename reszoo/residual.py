"""Layer plans of residual and plain networks: how a ResNetSpec becomes layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from reszoo.errors import SpecError
from reszoo.plans import Draft, Plan
from reszoo.specs import IDENTITY_SHORTCUTS, ResNetSpec

_PRE = ("pre", "relu_only_pre")


def residual_plan(spec: ResNetSpec) -> Plan:
    """Return the plan of a spec.

    Raises:
        SpecError: a map becomes too small, or two paths of a block meet with different sizes.
    """
    return _Writer(spec).write()


def squeezed_channels(channels: int, ratio: float, divisor: int) -> int:
    """Return the width between the two layers of squeeze-and-excitation.

    channels x ratio, rounded to the nearest multiple of `divisor` and at least one (timm).
    """
    return max(divisor, int(channels * ratio + divisor / 2) // divisor * divisor)


def eca_kernel(channels: int) -> int:
    """Return the kernel of efficient channel attention (arXiv 1910.03151, eq. 12; made odd)."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size + 1 - size % 2, 3)


@dataclass(frozen=True)
class _Conv:
    """A convolution of a block's main path."""

    channels: int
    kernel: int
    strides: bool = False
    groups: int = 1


class _Writer:
    def __init__(self, spec: ResNetSpec) -> None:
        self.spec = spec
        self.draft = Draft(spec.input_shape)
        self.stride = spec.stem_stride  # input size / size of the current map
        self.dilation = 1

    def write(self) -> Plan:
        spec, draft = self.spec, self.draft
        x = self._stem()
        endpoints, strides = [x], [1 if spec.stem == "cifar" else 2]
        x = self._stem_pool(x)
        last_stage = len(spec.depths)
        for draft.stage, depth in enumerate(spec.depths, start=1):
            for draft.block in range(1, depth + 1):
                if spec.stage_stride == "first":
                    strided = draft.stage > 1 and draft.block == 1
                else:
                    strided = draft.stage < last_stage and draft.block == depth
                x = self._block(x, strided)
            endpoints.append(x)
            strides.append(self.stride)
        draft.stage, draft.block = -1, 0
        if spec.activation_order == "pre":
            x = self._norm("head_norm", x)
        if spec.activation_order in _PRE:
            x = draft.add("head_relu", "relu", x)
        features = x
        x = draft.add("head_pool", "global_pool", x, size=())
        logits = draft.classifier(x, spec.classes, spec.dropout)
        return Plan(
            name=spec.name or "resnet",
            spec=spec,
            layers=tuple(draft.layers.values()),
            endpoints=tuple(endpoints),
            strides=tuple(strides),
            logits=logits,
            features=features,
            initializer=spec.initializer,
        )

    # Layers

    def _conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        normalized: bool = True,
        dilation: int = 1,
        groups: int = 1,
        role: str = "main",
    ) -> str:
        options: dict[str, Any] = {}
        if self.spec.weight_standardization:
            options["standardize"] = self.spec.weight_epsilon
        return self.draft.add(
            name,
            "conv",
            x,
            channels=channels,
            kernel=kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias=not normalized and self.spec.conv_bias == "unnormalized",
            role=role,
            **options,
        )

    def _norm(self, name: str, x: str, role: str = "main", zero: bool = False) -> str:
        spec = self.spec
        groups = spec.norm_groups if spec.norm == "group" else 0
        options: dict[str, Any] = {"epsilon": spec.norm_epsilon}
        if spec.norm == "batch":
            options["momentum"] = spec.norm_momentum
        if zero:
            options["zero"] = True
        return self.draft.add(name, "norm", x, groups=groups, role=role, **options)

    def _antialias(self, name: str, x: str) -> str:
        if self.spec.antialias == "average":
            return self.draft.add(name, "average_pool", x, kernel=2, stride=2)
        size = self.draft.layers[x].size
        if any(n is not None and n < 2 for n in size):
            raise SpecError(
                f"{name}: a map of {size[0]}x{size[1]} has no second pixel for the blur's "
                "reflected border; use a larger input_shape"
            )
        return self.draft.add(name, "blur_pool", x, kernel=3, stride=2, padding=1)

    # Stem

    def _activates_stem(self) -> bool:
        """Whether the first unit's activation stands before the stem's pooling instead.

        A shortcut that leaves after it finds it right after conv1 (arXiv 1603.05027, appendix;
        fb.resnet.torch, preresnet.lua).
        """
        spec = self.spec
        after = spec.activation_order in _PRE and spec.preact_split == "after"
        return after and spec.stem_pool not in ("none", "conv")

    def _stem(self) -> str:
        spec, draft = self.spec, self.draft
        width = spec.stem_width
        assert width is not None
        x = "input"
        number = ""
        if spec.stem in ("deep", "tiered"):
            first = width // 2 if spec.stem == "deep" else 3 * width // 8
            for number, channels, stride in (("1", first, 2), ("2", width // 2, 1)):
                x = self._conv(f"stem_conv{number}", x, channels, 3, stride)
                x = self._norm(f"stem_norm{number}", x)
                x = draft.add(f"stem_relu{number}", "relu", x)
            number, kernel, stride = "3", 3, 1
        else:
            kernel, stride = (7, 2) if spec.stem == "imagenet" else (3, 1)
        # In the pre-activation orders the blocks begin with what would end the stem.
        ends = spec.stem_pool != "conv" and not self._activates_stem()
        normalized = spec.activation_order != "pre" or not ends
        x = self._conv(f"stem_conv{number}", x, width, kernel, stride, normalized=normalized)
        if normalized:
            x = self._norm(f"stem_norm{number}", x)
        if spec.activation_order not in _PRE or not ends:
            x = draft.add("stem_relu", "relu", x)
        return x

    def _stem_pool(self, x: str) -> str:
        spec, draft = self.spec, self.draft
        kind = spec.stem_pool
        if kind == "none":
            return x
        smooth = spec.antialias != "none"
        if kind == "conv":
            normalized = spec.activation_order != "pre"
            width, stride = draft.channels(x), 1 if smooth else 2
            x = self._conv("stem_pool_conv", x, width, 3, stride, normalized=normalized)
            x = self._antialias("stem_pool_blur", x) if smooth else x
            x = self._norm("stem_pool_norm", x) if normalized else x
            pre = spec.activation_order in _PRE
            return x if pre else draft.add("stem_pool_relu", "relu", x)
        if smooth:  # timm: an average replaces the maximum, a blur follows it
            if spec.antialias == "blur":
                x = draft.add("stem_pool", "max_pool", x, kernel=3, padding=1, pad="-inf")
            return self._antialias("stem_pool_blur", x)
        if kind == "max_ceil":
            return draft.add("stem_pool", "max_pool", x, kernel=3, stride=2, ceil=True)
        pad = "zero" if kind == "max_zero" else "-inf"
        return draft.add("stem_pool", "max_pool", x, kernel=3, stride=2, padding=1, pad=pad)

    # Blocks

    def _convs(self) -> list[_Conv]:
        """Return the convolutions of a block of the current stage."""
        spec, stage = self.spec, self.draft.stage - 1
        out, inner = spec.block_channels[stage], spec.inner_channels[stage]
        first = inner // spec.first_reduction
        if spec.block == "basic":
            return [_Conv(first, 3, True), _Conv(out, 3)]
        in_first = spec.stride_placement == "1x1"
        return [
            _Conv(first, 1, in_first),
            _Conv(inner, 3, not in_first, spec.groups),
            _Conv(out, 1),
        ]

    def _block(self, x: str, strided: bool) -> str:
        spec, draft = self.spec, self.draft
        tag = f"stage{draft.stage}_block{draft.block}"
        order = spec.activation_order
        convs = self._convs()
        stride = 1
        if strided:
            dilates = spec.output_stride is not None and self.stride >= spec.output_stride
            stride = 1 if dilates else 2
            self.stride *= stride

        y = x
        activated = x
        blurs = False
        activated_stem = draft.stage == draft.block == 1 and self._activates_stem()
        for number, conv in enumerate(convs, start=1):
            last = number == len(convs)
            if order in _PRE and not (number == 1 and activated_stem):
                if order == "pre":
                    y = self._norm(f"{tag}_norm{number}", y)
                y = draft.add(f"{tag}_relu{number}", "relu", y)
                if blurs:
                    y = self._antialias(f"{tag}_blur", y)
                activated = y if number == 1 else activated
            if last and spec.block_dropout:
                y = draft.add(f"{tag}_dropout", "dropout", y, rate=spec.block_dropout)
            step = stride if conv.strides else 1
            blurs = step > 1 and spec.antialias != "none"
            # In "pre" the next convolution's norm follows; after the last the addition does.
            unnormalized = last and order in ("pre", "norm_after_add")
            y = self._conv(
                f"{tag}_conv{number}",
                y,
                conv.channels,
                conv.kernel,
                1 if blurs else step,
                dilation=self.dilation if conv.kernel > 1 else 1,
                groups=conv.groups,
                normalized=not unnormalized,
            )
            if conv.strides and strided and step == 1:
                self.dilation *= 2  # what follows sees the map that the stride would have halved
            if order == "pre" or unnormalized:
                continue
            y = self._norm(f"{tag}_norm{number}", y, zero=last and spec.zero_gamma)
            if order in _PRE:
                continue
            if not last or order == "relu_before_add":
                y = draft.add(f"{tag}_relu{number}", "relu", y)
            if blurs:
                y = self._antialias(f"{tag}_blur", y)
        y = self._attention(tag, y)

        if spec.shortcut != "none":
            if rate := self._drop_rate():
                y = draft.add(f"{tag}_drop", "drop_branch", y, rate=rate)
            if spec.residual_scale != 1.0:
                y = draft.add(f"{tag}_scale", "scale", y, factor=spec.residual_scale, offset=0.0)
            y = self._join(tag, y, x, activated, stride, strided)
        count = len(convs)
        if order == "norm_after_add":
            y = self._norm(f"{tag}_norm{count}", y)
        if order in ("post", "norm_after_add"):
            y = draft.add(f"{tag}_relu{count}", "relu", y)
        return y

    def _drop_rate(self) -> float:
        """Return the linear rule of arXiv 1603.09382: l / L of the last block's rate."""
        spec, draft = self.spec, self.draft
        number = sum(spec.depths[: draft.stage - 1]) + draft.block
        return spec.stochastic_depth * number / sum(spec.depths)

    def _attention(self, tag: str, x: str) -> str:
        spec, draft = self.spec, self.draft
        kind = spec.attention
        if kind == "none":
            return x
        tag = f"{tag}_{kind}"
        channels = draft.channels(x)
        if spec.attention_relu:
            x = draft.add(f"{tag}_before", "relu", x, role="attention")
        gate = draft.add(f"{tag}_pool", "global_pool", x, size=(1, 1), role="attention")
        if kind == "se":
            inner = squeezed_channels(channels, spec.se_ratio, spec.se_divisor)
            gate = draft.add(
                f"{tag}_reduce", "conv", gate, channels=inner, bias=True, role="attention"
            )
            gate = draft.add(f"{tag}_relu", "relu", gate, role="attention")
            gate = draft.add(
                f"{tag}_expand", "conv", gate, channels=channels, bias=True, role="attention"
            )
        else:
            gate = draft.add(
                f"{tag}_conv",
                "channel_conv",
                gate,
                kernel=eca_kernel(channels),
                size=(1, 1),
                role="attention",
            )
        gate = draft.add(f"{tag}_sigmoid", "sigmoid", gate, role="attention")
        return draft.add(f"{tag}_multiply", "multiply", x, gate, role="attention")

    # Shortcuts

    def _join(self, tag: str, y: str, x: str, activated: str, stride: int, strided: bool) -> str:
        spec, draft = self.spec, self.draft
        out = draft.channels(y)
        widens = draft.channels(x) != out
        changes = strided or widens
        halves = strided and not widens and spec.stage_stride == "last"
        first_unit = draft.stage == draft.block == 1
        leaves_after = (changes and not halves) or (first_unit and spec.preact_split == "after")
        source = activated if leaves_after else x
        if spec.shortcut in IDENTITY_SHORTCUTS:
            identity = self._identity(tag, source, out, stride, changes)
        elif spec.shortcut == "B" and halves:
            identity = self._halved(tag, source, stride)
        elif spec.shortcut == "C" or changes:
            identity = self._projection(tag, source, out, stride, strided)
        else:
            identity = source
        if spec.shortcut in ("exclusive_gate", "shortcut_gate"):
            gate = draft.add(
                f"{tag}_gate_conv",
                "conv",
                identity,
                channels=out,
                bias=True,
                role="gate",
                bias_value=spec.gate_bias,
            )
            gate = draft.add(f"{tag}_gate", "sigmoid", gate, role="gate")
            if spec.shortcut == "exclusive_gate":
                y = draft.add(f"{tag}_gate_branch", "multiply", y, gate, role="gate")
            kept = draft.add(
                f"{tag}_gate_rest", "scale", gate, factor=-1.0, offset=1.0, role="gate"
            )
            identity = draft.add(f"{tag}_gate_shortcut", "multiply", identity, kept, role="gate")
        for a, b in zip(draft.layers[y].size, draft.layers[identity].size, strict=True):
            if a is not None and b is not None and a != b:
                raise SpecError(
                    f"{tag}: the branch has {a} pixels and the shortcut {b}: the 2x2 averages of "
                    'antialias "average" round odd sizes down, shortcuts round them up; choose '
                    "another input_shape"
                )
        return draft.add(f"{tag}_add", "add", y, identity)

    def _identity(self, tag: str, x: str, out: int, stride: int, changes: bool) -> str:
        spec, draft = self.spec, self.draft
        if changes:
            x = draft.add(
                f"{tag}_shortcut_pad",
                "subsample_pad",
                x,
                channels=out,
                stride=stride,
                role="shortcut",
                pad=spec.shortcut_pad,
                pool=spec.shortcut_pool,
            )
        if spec.shortcut == "scaled":
            return draft.add(
                f"{tag}_shortcut_scale",
                "scale",
                x,
                role="shortcut",
                factor=spec.shortcut_scale,
                offset=0.0,
            )
        if spec.shortcut == "dropout" and spec.shortcut_dropout:
            return draft.add(
                f"{tag}_shortcut_dropout",
                "dropout",
                x,
                role="shortcut",
                rate=spec.shortcut_dropout,
            )
        return x

    def _halved(self, tag: str, x: str, stride: int) -> str:
        """Halve a map without weights (keras.applications' V2: max-pooling of one pixel)."""
        name = f"{tag}_shortcut_pool"
        if self.spec.shortcut_downsample == "average":
            return self.draft.add(
                name, "average_pool", x, kernel=2, stride=stride, ceil=True, role="shortcut"
            )
        return self.draft.add(name, "max_pool", x, stride=stride, role="shortcut")

    def _projection(self, tag: str, x: str, out: int, stride: int, strided: bool) -> str:
        spec, draft = self.spec, self.draft
        kernel = spec.shortcut_kernel if strided else 1
        if strided and spec.shortcut_downsample == "average":
            name = f"{tag}_shortcut_pool"
            if stride > 1:
                x = draft.add(
                    name, "average_pool", x, kernel=2, stride=2, ceil=True, role="shortcut"
                )
            else:  # dilated: timm averages at every pixel, zeros beyond the edge
                size = draft.layers[x].size
                x = draft.add(
                    name, "average_pool", x, kernel=2, size=size, role="shortcut", same=True
                )
            kernel, stride = 1, 1
        normalized = spec.activation_order != "pre"
        x = self._conv(
            f"{tag}_shortcut_conv", x, out, kernel, stride, normalized=normalized, role="shortcut"
        )
        if normalized:
            x = self._norm(f"{tag}_shortcut_norm", x, role="shortcut")
        return x
