"""By how much plausible mistakes change the reference logits: the table in README.md.

Needs what make_references.py needs: `python sensitivity.py`, half a minute.
"""

from collections.abc import Callable
from typing import Any

import torch
from make_references import batch, fill, make
from timm.layers import BlurPool2d
from torch import nn


def patched(kind: type, **fields: Any) -> Callable[[Any], None]:
    """Sets these attributes of all modules of a class."""

    def change(model: Any) -> None:
        for module in model.modules():
            if isinstance(module, kind):
                vars(module).update(fields)

    return change


def swapped(parent: str, child: str, new: Callable[[], Any]) -> Callable[[Any], None]:
    """Puts another module at this place."""
    return lambda model: setattr(model.get_submodule(parent), child, new())


def other(name: str) -> Callable[[Any], Any]:
    """Another network with the same tensors."""

    def replace(model: Any) -> Any:
        replacement = make(name)
        replacement.load_state_dict(model.state_dict(), strict=True)
        return replacement

    return replace


def move_strides(model: Any) -> None:
    """From the 1x1 to the 3x3 convolution of each bottleneck, or back."""
    for module in model.modules():
        if getattr(module, "stride", None) == 2 and hasattr(module, "conv3"):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride


def reverse_eca(model: Any) -> None:
    """Convolution instead of cross-correlation along the channels."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d):
            module.weight.data = module.weight.data.flip(-1)


def zeros_outside(model: Any) -> None:
    """Partial windows of the shortcut's pool divided by 4."""
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].downsample[0] = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2))


def undilate(model: Any) -> None:
    """The first block of the last stage without the previous stage's dilation."""
    model.layer4[0].conv2.dilation = model.layer4[0].conv2.padding = (1, 1)


def no_middle_relu(model: Any) -> None:
    """The second of the three calls of a legacy basic block's ReLU left out."""

    class Twice(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x if self.calls % 3 == 2 else x.relu()

    for module in model.modules():
        if type(module).__name__ == "SEResNetBlock":
            module.relu = Twice()


def zero_pool() -> nn.Module:
    """A max-pool that pads zeros."""
    return nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2))


def right_pool() -> nn.Module:
    """A max-pool that pads the right and the bottom only."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def torch_pool() -> nn.Module:
    """A max-pool that pads minus infinity on all sides."""
    return nn.MaxPool2d(3, 2, padding=1)


MISTAKES: list[tuple[str, int, str, Callable[[Any], Any]]] = [
    ("torchvision/resnet50", 64, "stride on the 1x1 (v1)", move_strides),
    ("torchvision/resnet50", 64, "stem pool pads one side", swapped("", "maxpool", right_pool)),
    ("timm/legacy_seresnet50", 64, "stride on the 3x3", move_strides),
    ("timm/legacy_seresnet50", 64, "stem pool pads both sides", swapped("", "pool0", torch_pool)),
    ("timm/legacy_seresnet18", 64, "no ReLU before SE", no_middle_relu),
    ("timm/resnetv2_50", 64, "stem pool pads zeros", swapped("stem", "pool", zero_pool)),
    (
        "timm/resnetv2_50x1_bit",
        64,
        "no zeros in the stem's pool",
        swapped("stem.pad", "value", lambda: -1e30),
    ),
    ("timm/resnetv2_50x1_bit", 64, "WS eps 1e-5", patched(nn.Conv2d, eps=1e-5)),
    ("timm/resnetv2_50x1_bit", 64, "WS eps 1e-6", patched(nn.Conv2d, eps=1e-6)),
    ("timm/resnetaa50", 64, "plain resnet50", other("timm/resnet50")),
    ("timm/resnetblur50", 64, "plain resnet50", other("timm/resnet50")),
    ("timm/resnetblur50", 64, "zeros outside", patched(BlurPool2d, pad_mode="constant")),
    ("timm/resnet50d", 57, "zeros outside the shortcut's pool", zeros_outside),
    ("timm/resnet50", 64, "BN eps 1e-3", patched(nn.BatchNorm2d, eps=1e-3)),
    ("timm/resnet50", 64, "BN eps 2e-5", patched(nn.BatchNorm2d, eps=2e-5)),
    ("timm/ecaresnet50d", 64, "ECA kernel reversed", reverse_eca),
    ("timm/resnet50@os8", 64, "layer4.0 not dilated", undilate),
]


@torch.inference_mode()
def check() -> None:
    """Print by how much plausible mistakes change the logits (relative to the largest)."""
    for name, size, mistake, breaks in MISTAKES:
        model = make(name)
        fill(model)
        right = model(batch(size))
        wrong = (breaks(model) or model)(batch(size))
        error = float((wrong - right).abs().max() / right.abs().max())
        print(f"| {name} | {size} | {mistake} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    check()
