"""Make references.npz and timm_details.json: see README.md in this folder.

Needs torch, torchvision and timm, which the tests do not. No pretrained weights, no network.

    python make_references.py --work DIR [--only NAME …]
"""

import argparse
import contextlib
import datetime
import gc
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import formula
import numpy as np
import timm
import torch
import torchvision
from torch import nn

HERE = Path(__file__).parent


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TORCHVISION = _words(
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d"
    " resnext101_64x4d wide_resnet50_2 wide_resnet101_2 vgg16 vgg19 vgg16_bn"
)
TIMM = _words(
    "resnet10t resnet14t resnet18 resnet18d resnet26 resnet26d resnet26t resnet34 resnet34d"
    " resnet50 resnet50c resnet50d resnet50s resnet50t resnet101 resnet101c resnet101d resnet101s"
    " resnet152 resnet152d resnet200d resnext50_32x4d resnext50d_32x4d resnext101_32x4d"
    " resnext101_32x8d resnext101_64x4d wide_resnet50_2 wide_resnet101_2"
    " seresnet18 seresnet34 seresnet50 seresnet152d seresnext26d_32x4d seresnext26t_32x4d"
    " seresnext50_32x4d seresnext101d_32x8d seresnextaa101d_32x8d seresnextaa201d_32x8d"
    " legacy_seresnet18 legacy_seresnet34 legacy_seresnet50 legacy_seresnext26_32x4d"
    " legacy_seresnext50_32x4d legacy_senet154 senet154"
    " ecaresnet26t ecaresnet50d ecaresnet50t ecaresnet101d ecaresnet269d ecaresnetlight"
    " resnetaa50 resnetaa50d resnetaa101d resnetblur18 resnetblur50 resnetblur50d resnet50_gn"
    " resnetrs50 resnetrs101 resnetrs152 resnetrs200 resnetrs270 resnetrs350 resnetrs420"
    " resnetv2_18 resnetv2_18d resnetv2_34 resnetv2_34d resnetv2_50 resnetv2_50d resnetv2_50t"
    " resnetv2_101 resnetv2_101d resnetv2_152 resnetv2_152d resnetv2_50d_gn resnetv2_50x1_bit"
    " resnetv2_101x1_bit resnetv2_50x3_bit resnetv2_101x3_bit resnetv2_152x2_bit resnetv2_152x4_bit"
)
DILATED = ("resnet18", "resnet50", "resnet50d", "resnetv2_50")
FEATURES = ("resnet18", "resnet50d", "resnetv2_50")  # also run with features_only
NO_FLOAT64 = 500_000_000  # parameters above which the float64 run is left out, for memory


def every_name() -> list[str]:
    """All references, the order of the file."""
    dilated = [f"timm/{name}@os{stride}" for name in DILATED for stride in (8, 16)]
    return [f"torchvision/{n}" for n in TORCHVISION] + [f"timm/{n}" for n in TIMM] + dilated


def sizes_of(name: str) -> tuple[int, int]:
    """An even and an odd input size that the network accepts without resampling its maps."""
    if "vgg" in name:
        return 224, 225  # only 7x7 maps pass AdaptiveAvgPool2d(7) unchanged
    if "aa" in name:
        return 64, 65  # its average pools floor, its shortcuts ceil: 57 is an error in timm
    return 64, 57


def make(name: str, device: str = "cpu", **options: Any) -> Any:
    """The network in inference mode, its tensors not set."""
    zoo, _, model = name.partition("/")
    model, _, dilation = model.partition("@os")
    if dilation:
        options["output_stride"] = int(dilation)
    idle = [n for n in vars(nn.init) if n.endswith("_") and not n.startswith("_")]
    with contextlib.ExitStack() as stack:
        for function in idle:  # the initial values are replaced: do not spend minutes on them
            stack.enter_context(mock.patch.object(nn.init, function, lambda t, *a, **k: t))
        stack.enter_context(torch.device(device))
        if zoo == "timm":
            return timm.create_model(model, pretrained=False, **options).eval()
        return getattr(torchvision.models, model)(weights=None, **options).eval()


def fill(model: Any) -> dict[str, tuple[int, ...]]:
    """Set every tensor by the formula; returns names and shapes."""
    shapes = formula.shapes_of((n, t.shape) for n, t in model.state_dict().items())
    state = {n: torch.from_numpy(np.array(formula.tensor(n, s))) for n, s in shapes.items()}
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            assert value.abs().max() > 0 and not bool((value == 1).all()), name
    model.load_state_dict(state, strict=True, assign=True)
    return shapes


def taps(model: Any) -> list[str]:
    """The modules whose outputs are the five stages: the stem before its pool, stages 1 to 4."""
    if hasattr(model, "feature_info"):
        return [info["module"] for info in model.feature_info]
    if hasattr(model, "layer4"):
        return ["relu", "layer1", "layer2", "layer3", "layer4"]
    pools = [n for n, m in model.named_modules() if isinstance(m, nn.MaxPool2d)]
    assert len(pools) == formula.STAGES
    return pools


@contextlib.contextmanager
def recorded(model: Any) -> Iterator[list[np.ndarray]]:
    """Within it, `stage_numbers` of every tap are appended at the tap's first call of a pass."""
    found: dict[str, np.ndarray] = {}
    result: list[np.ndarray] = []
    modules = dict(model.named_modules())

    def hook(tap: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            if tap not in found:  # torchvision's relu is called in the stem first
                found[tap] = formula.stage_numbers(output.permute(0, 2, 3, 1).numpy())

        return keep

    handles = [modules[tap].register_forward_hook(hook(tap)) for tap in taps(model)]
    yield result
    result.extend(found[tap] for tap in taps(model))
    for handle in handles:
        handle.remove()


def batch(size: int) -> torch.Tensor:
    """The two images of this size, NCHW."""
    return torch.from_numpy(formula.images(2, size, size).transpose(0, 3, 1, 2).copy())


@torch.inference_mode()
def outputs(name: str) -> dict[str, Any]:
    """One row of every array of references.npz."""
    model = make(name)
    shapes = fill(model)
    row: dict[str, Any] = {"digest": formula.digest(shapes), "sizes": sizes_of(name)}
    logits, stages = [], []
    for size in sizes_of(name):
        with recorded(model) as numbers:
            logits.append(model(batch(size)).numpy())
        stages.append(np.stack(numbers, axis=1))
    full = np.stack(logits)
    assert full.shape[-1] == 1000 and np.isfinite(full).all(), name
    row["logits"] = formula.kept_logits(full)
    row["logit_max"], row["logit_std"] = np.abs(full).max(-1), full.std(-1)
    row["stages"] = np.stack(stages)
    row["image_difference"] = (full[:, 0] - full[:, 1]).std(-1) / full.std(-1).max(-1)
    row["rounding"] = np.full(2, np.nan)
    if sum(p.numel() for p in model.parameters()) < NO_FLOAT64:
        model.double()
        exact = np.stack([model(batch(size).double()).numpy() for size in sizes_of(name)])
        row["rounding"] = (np.abs(full - exact).max(-1) / np.abs(exact).max(-1)).max(-1)
    if name.removeprefix("timm/") in FEATURES or "@" in name:
        del model
        check_features_only(name, row["stages"])
    return row


def check_features_only(name: str, stages: np.ndarray) -> None:
    """timm's features_only maps have the numbers of our taps."""
    model = make(name, features_only=True, out_indices=(0, 1, 2, 3, 4))
    shapes = formula.shapes_of((n, t.shape) for n, t in model.state_dict().items())
    # flattened: stem_conv.weight, stages_0.blocks.0…: the formula needs the real names
    real = {n: n.replace("stem_", "stem.").replace("stages_", "stages.") for n in shapes}
    state = {n: torch.from_numpy(np.array(formula.tensor(real[n], s))) for n, s in shapes.items()}
    model.load_state_dict(state, strict=True, assign=True)
    for size, expected in zip(sizes_of(name), stages, strict=True):
        maps = [m.permute(0, 2, 3, 1).numpy() for m in model(batch(size))]
        found = np.stack([formula.stage_numbers(m) for m in maps], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        strides = [-(-size // m.shape[1]) for m in maps]
        assert size % 2 or strides == model.feature_info.reduction(), (strides, name)


def line(module: nn.Module) -> str:
    """One module in a few characters: `conv3x3 64>128 s2 p1 g32`."""
    kind = type(module).__name__
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        size = "x".join(map(str, module.kernel_size))
        text = f"conv{size} {module.in_channels}>{module.out_channels} s{module.stride[0]}"
        text += f" p{module.padding[0]}"
        text += f" d{module.dilation[0]}" if module.dilation[0] > 1 else ""
        text += f" g{module.groups}" if module.groups > 1 else ""
        text += " bias" if module.bias is not None else ""
        return text + (f" ws eps{module.eps:g}" if hasattr(module, "eps") else "")
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, pad = (
            v[0] if isinstance(v, tuple) else v
            for v in (module.kernel_size, module.stride, module.padding)
        )
        text = f"{kind} k{kernel} s{stride} p{pad}" + (" ceil" if module.ceil_mode else "")
        return text + (
            " exclude-pad" if getattr(module, "count_include_pad", True) is False else ""
        )
    if kind == "BlurPool2d":
        return f"BlurPool2d k{module.filt_size} s{module.stride} {module.pad_mode} pad1"
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        return "GN" if isinstance(module, nn.GroupNorm) else "BN"
    if isinstance(module, nn.ConstantPad2d):
        return f"pad1 value{module.value:g}"
    return kind


LEAVES = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d)
LEAF_NAMES = ("ReLU", "Sigmoid", "BlurPool2d", "ConstantPad2d", "Dropout", "AdaptiveAvgPool2d")


def details(name: str) -> dict[str, Any]:
    """Facts about one network, read from the built modules and from a pass over shapes only."""
    model = make(name, device="meta")
    modules = dict(model.named_modules())
    macs: Counter[str] = Counter()
    order: list[str] = []

    def count(key: str) -> Callable[..., None]:
        def hook(module: Any, _inputs: Any, output: torch.Tensor) -> None:
            part = "attention" if ".se." in key or ".se_module." in key else "main"
            if type(module).__name__ == "BlurPool2d":
                macs["blur"] += output.numel() * module.filt_size**2
            else:
                macs[part] += output.numel() * module.weight[0].numel()

        return hook

    for key, module in modules.items():
        if isinstance(module, LEAVES) or type(module).__name__ in LEAF_NAMES:
            module.register_forward_pre_hook(lambda _m, _x, key=key: order.append(key))
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) or hasattr(module, "filt_size"):
            module.register_forward_hook(count(key))
    with torch.inference_mode():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    state = model.state_dict()
    norms = [m for m in modules.values() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs_224": macs["main"] + macs["attention"],
        "macs_attention_224": macs["attention"],
        "macs_blur_224": macs["blur"],
        "tensors": len(state),
        "norm": sorted({f"{type(m).__name__} eps {m.eps:g}" for m in norms}),
        "norm_groups": sorted({m.num_groups for m in norms if isinstance(m, nn.GroupNorm)}),
        "act": sorted({type(m).__name__ for m in modules.values() if "ReLU" in type(m).__name__}),
    }
    if hasattr(model, "feature_info"):
        facts["taps"] = [[i["module"], i["num_chs"], i["reduction"]] for i in model.feature_info]
    if name.startswith("torchvision/"):
        return facts
    config = model.pretrained_cfg
    facts |= {key: config[key] for key in ("first_conv", "classifier", "mean")}
    # stages and blocks: layer2.0, or stages.1.blocks.0
    v2 = hasattr(model, "stages")
    prefixes = [f"stages.{i}.blocks." if v2 else f"layer{i + 1}." for i in range(4)]

    def lines(prefix: str) -> list[str]:
        return [f"{k[len(prefix) :]} {line(modules[k])}" for k in order if k.startswith(prefix)]

    facts["blocks"] = [
        len({k[len(p) :].split(".")[0] for k in modules if k.startswith(p)}) for p in prefixes
    ]
    if "@" in name:  # kernel, stride, dilation of the first two blocks of each stage
        facts["dilation"] = {
            k: [modules[k].kernel_size[0], modules[k].stride[0], modules[k].dilation[0]]
            for k in order
            if k.startswith(tuple(f"{p}{b}." for p in prefixes for b in (0, 1)))
            and isinstance(modules[k], nn.Conv2d)
            and modules[k].kernel_size[0] > 1
        }
        return facts
    facts["stem"] = [f"{k} {line(modules[k])}" for k in order if not k.startswith(tuple(prefixes))]
    facts["block_1_0_downsample"] = lines(f"{prefixes[0]}0.downsample.")
    facts["block_2_0"] = lines(f"{prefixes[1]}0.")
    excitations = [m for p in prefixes for k, m in modules.items() if k.startswith(f"{p}0.se")]
    facts["se_widths"] = [m.fc1.out_channels for m in excitations if hasattr(m, "fc1")]
    facts["eca_kernels"] = [m.kernel_size[0] for m in excitations if isinstance(m, nn.Conv1d)]
    facts["aa"] = [k for k in order if type(modules[k]).__name__ == "BlurPool2d" or ".aa" in k]
    return {key: value for key, value in facts.items() if value != []}


def stored(work: Path, name: str) -> Path:
    """The file of one finished network in the work folder."""
    return work / f"{name.replace('/', '+')}.npz"


def merge(work: Path) -> None:
    """Write references.npz and timm_details.json from the work folder."""
    done = [name for name in every_name() if stored(work, name).exists()]
    rows = [dict(np.load(stored(work, name))) for name in done]
    facts = [json.loads(str(row.pop("details"))) for row in rows]
    about = {
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{m.__name__: m.__version__ for m in (timm, torch, torchvision, np)},
        "machine": f"{platform.system()} {platform.machine()}, one thread, float32",
        "absent": [name for name in every_name() if name not in done],
    }
    arrays: dict[str, Any] = {}
    for key in ("sizes", "logits", "logit_max", "logit_std", "stages", "rounding", "digest"):
        stacked = np.stack([row[key] for row in rows])
        arrays[key] = stacked.astype(np.float32) if stacked.dtype == np.float64 else stacked
    np.savez_compressed(
        formula.REFERENCES, names=np.array(done), about=np.array(json.dumps(about)), **arrays
    )
    lines = [
        f"{json.dumps(n)}: {json.dumps(f, separators=(',', ':'))}"
        for n, f in zip(done, facts, strict=True)
    ]
    lines.insert(0, f'"about": {json.dumps(about)}')
    (HERE / "timm_details.json").write_text("{" + ",\n".join(lines) + "}\n")
    print(f"{len(done)} networks, absent {about['absent']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="finished networks, kept")
    parser.add_argument("--only", nargs="*", help="names such as timm/resnet50; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or every_name():
        if stored(arguments.work, name).exists():
            continue
        start = time.monotonic()
        try:
            row = outputs(name)
            row["details"] = json.dumps(details(name))
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            continue
        part = stored(arguments.work, name).with_suffix(".part.npz")
        np.savez(part, **row)
        os.replace(part, stored(arguments.work, name))
        gc.collect()
        print(
            f"{name} {time.monotonic() - start:.1f} s std {row['logit_std'].min():.3g}"
            f"-{row['logit_std'].max():.3g} max {row['logit_max'].max():.3g} images differ"
            f" {row['image_difference'].min():.2g} rounding {row['rounding'].max():.1e}",
            flush=True,
        )
    merge(arguments.work)


if __name__ == "__main__":
    main()
