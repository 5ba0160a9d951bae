"""Which weights are published for which network, and getting their files onto this machine.

Nothing is downloaded but by `fetch`. Importing this needs neither numpy nor keras.
"""

from __future__ import annotations

import csv
import fnmatch
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reszoo.errors import SpecError, unknown
from reszoo.labels import LABEL_SETS
from reszoo.preprocessing import Preprocessing

#: Words for a network's default tag -> classes of the weights.
DEFAULTS = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}

#: The file that timm's repositories on the Hugging Face hub hold.
_HUB_FILE = "model.safetensors"


class WeightsError(RuntimeError):
    """A published file that cannot be had or must not be used. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published file of weights.

    Attributes:
        network: catalogue name.
        tag: which weights, in timm's words where timm has them: ``"a1_in1k"``.
        aliases: other words for the tag: torchvision's ``"IMAGENET1K_V1"``.
        default: whether ``"imagenet"`` (or ``"cifar10"``, ``"cifar100"``) means these. It is the
            tag that timm takes for the bare name, or where that may not be used commercially, the
            first that may; of other sources the only one, or the one whose full hash is known.
        grammar: how the file names its tensors: ``"torchvision"``, ``"timm_v1"`` (torchvision's
            names and more), ``"timm_v2"``, ``"legacy_senet"``, ``"akamaster"``,
            ``"keras_applications_v1"``, ``"keras_applications_v2"`` or ``"bit_npz"``.
        url: the file's address; empty where only the Hugging Face hub has it.
        hf_repo: repository on the hub whose model.safetensors holds the same weights, or empty.
        revision: commit of that repository, 40 hexadecimal digits, which fixes its file; empty
            where it is not known.
        hash_kind: ``"sha256"``, ``"sha256-prefix"`` (the first 8 or 9 hexadecimal digits, from the
            file's name: finds damage, not an attacker), ``"md5"``, or empty; of the file at `url`.
        hash: its value.
        licence: SPDX identifier.
        preprocessing: the input that the weights want.
        classes: outputs of the classifier that they were trained with.
        top: whether the file holds that classifier.
        overrides: spec fields in which the file's network differs from the catalogue's.
        unsupported: why these weights cannot be loaded; empty if they can.
        note: what else to know.
    """

    network: str
    tag: str
    aliases: tuple[str, ...] = ()
    default: bool = False
    grammar: str
    url: str = ""
    hf_repo: str = ""
    revision: str = ""
    hash_kind: str = ""
    hash: str = ""
    licence: str
    preprocessing: Preprocessing
    classes: int
    top: bool = True
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unsupported: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """``"network.tag"``."""
        return f"{self.network}.{self.tag}"

    @property
    def supported(self) -> bool:
        """Whether reszoo can load these weights; `unsupported` says why not."""
        return not self.unsupported

    @property
    def commercial(self) -> bool:
        """Whether the licence allows commercial use."""
        return "NC" not in self.licence.split("-")

    @property
    def verified(self) -> bool:
        """Whether it is known which bytes the file holds: by its hash, or by a pinned revision."""
        pinned = not self.url and re.fullmatch("[0-9a-f]{40}", self.revision)
        return bool(self.hash or pinned)

    @property
    def free(self) -> bool:
        """Whether `build` takes them without `verify=False` and `allow_noncommercial=True`."""
        return self.supported and self.verified and self.commercial

    @property
    def label_set(self) -> str | None:
        """The set of `reszoo.labels.labels` that names the outputs; None: not shipped."""
        return {classes: name for name, classes in LABEL_SETS.items()}.get(self.classes)

    @property
    def address(self) -> str:
        """Where the file is downloaded from."""
        hub = f"https://huggingface.co/{self.hf_repo}/resolve/{self.revision or 'main'}/{_HUB_FILE}"
        return self.url or hub

    @property
    def filename(self) -> str:
        """The file's name in the cache: its published one where that is distinctive.

        A pinned revision is part of it, so that no other one is taken for it.
        """
        if self.url:
            return Path(urlsplit(self.url).path).name
        return f"{self.name}{self.revision and '-' + self.revision[:8]}.safetensors"


def entries(network: str = "*", *, unsupported: bool = False) -> list[Entry]:
    """Return what is published for the networks that match a shell pattern.

    Args:
        network: pattern of catalogue names.
        unsupported: list also what cannot be loaded; `Entry.unsupported` says why.
    """
    return [
        entry
        for entry in _read_index()
        if fnmatch.fnmatchcase(entry.network, network) and (unsupported or entry.supported)
    ]


def find(network: str, tag: str = "imagenet") -> Entry:
    """Return the entry of a network and a tag.

    Args:
        network: catalogue name.
        tag: a tag or an alias of one; ``"imagenet"``, ``"cifar10"`` or ``"cifar100"`` is the
            network's default for that data set (see Entry.default).

    Raises:
        SpecError: there is none, or it cannot be loaded.
    """
    every = [entry for entry in _read_index() if entry.network == network]
    if not every:
        known = dict.fromkeys(entry.network for entry in entries())
        raise SpecError(unknown("network with published weights", network, known))
    for entry in every:
        if tag in (entry.tag, *entry.aliases) or (
            entry.default and DEFAULTS.get(tag) == entry.classes
        ):
            if not entry.supported:
                raise SpecError(f"{entry.name} cannot be loaded: {entry.unsupported}")
            return entry
    words = [
        word
        for entry in every
        if entry.supported
        for word in (*_default_word(entry), entry.tag, *entry.aliases)
    ]
    raise SpecError(unknown(f"weights of {network}", tag, words))


def is_tag(text: str) -> bool:
    """Return whether `find` knows a word as the tag of any network."""
    return text in DEFAULTS or any(text in (e.tag, *e.aliases) for e in _read_index())


def _default_word(entry: Entry) -> list[str]:
    return [
        word for word, classes in DEFAULTS.items() if entry.default and entry.classes == classes
    ]


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return where files are kept: `cache_dir`, $RESZOO_HOME, or reszoo in Keras' home."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if home := os.environ.get("RESZOO_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "reszoo"


def fetch(
    entry: Entry,
    *,
    verify: bool = True,
    allow_noncommercial: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the path of an entry's file, downloaded unless it is in the cache.

    A known hash is always checked, also of a file that was put into the cache by hand. Files that
    exist on the hub only come through huggingface_hub, and from its cache, where it is installed;
    at their pinned revision where one is known.

    Args:
        entry: from `find` or `entries`.
        verify: False takes files of which neither hash nor revision is known.
        allow_noncommercial: True takes files whose licence forbids commercial use.
        cache_dir: default: `cache_directory()`.

    Raises:
        WeightsError: the file cannot be had, does not have the known hash, has neither hash nor
            pinned revision, or its licence was not accepted.
    """
    path = cache_directory(cache_dir) / entry.filename
    if not entry.supported:
        raise WeightsError(f"{entry.name} cannot be loaded: {entry.unsupported}")
    if not entry.commercial and not allow_noncommercial:
        raise WeightsError(
            f"the licence of {entry.name}, {entry.licence}, forbids commercial use; "
            "allow_noncommercial=True accepts it"
        )
    if verify and not entry.verified:
        raise WeightsError(
            f"no hash or revision of {entry.name} is known, so {entry.address} cannot be verified; "
            "verify=False takes it unchecked"
        )
    if path.exists():
        if problem := mismatch(entry, path):
            raise WeightsError(f"{path} is not {entry.name}: {problem}; remove or replace it")
        return path
    if not entry.url and (found := _from_hub(entry, path)):
        return found
    _download(entry, path)
    return path


def mismatch(entry: Entry, path: Path) -> str | None:
    """Return how a file differs from the known hash; None: it does not, or none is known."""
    if not entry.hash:
        return None
    algorithm = entry.hash_kind.removesuffix("-prefix")
    with path.open("rb") as file:
        # MD5 is all that keras.applications publishes.
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    actual = digest.hexdigest()
    if entry.hash_kind.endswith("-prefix"):
        actual = actual[: len(entry.hash)]
    return None if actual == entry.hash else f"{entry.hash_kind} {actual} instead of {entry.hash}"


def _download(entry: Entry, path: Path) -> None:
    """Download into the cache: the whole and right file appears there, or nothing."""
    import keras

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not at its place at once: get_file leaves a half file when the process is killed, and
        # two processes would write into one.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as scratch:
            got = Path(
                keras.utils.get_file(
                    path.name, entry.address, cache_dir=scratch, cache_subdir="file"
                )
            )
            if problem := mismatch(entry, got):
                raise WeightsError(f"{entry.address} is not {entry.name}: {problem}; not kept")
            got.replace(path)
    except WeightsError:
        raise
    except Exception as error:  # get_file raises bare Exceptions
        raise _unreachable(entry, path, error) from error


def _from_hub(entry: Entry, path: Path) -> Path | None:
    """Return the file from the hub or its cache; None if huggingface_hub is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        return None
    at = {"revision": entry.revision} if entry.revision else {}
    try:
        return Path(huggingface_hub.hf_hub_download(entry.hf_repo, _HUB_FILE, **at))
    except Exception as error:  # it has a dozen kinds
        raise _unreachable(entry, path, error) from error


def _unreachable(entry: Entry, path: Path, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return WeightsError(
        f"cannot download {entry.name} ({reason}); get {entry.address} elsewhere and save it as "
        f"{path}"
    )


@functools.cache
def _read_index() -> tuple[Entry, ...]:
    text = files("reszoo").joinpath("weights", "index.csv").read_text(encoding="utf-8")
    return tuple(_entry(row) for row in csv.DictReader(text.splitlines()))


def _entry(row: dict[str, str]) -> Entry:
    def numbers(name: str) -> tuple[float, ...]:
        return tuple(float(text) for text in row[name].split())

    test_size, test_crop = row["test_input_size"], row["test_crop_fraction"]
    preprocessing = Preprocessing(
        scale=float(Fraction(row["scale"])),
        mean=numbers("mean"),
        std=numbers("std"),
        channel_order=row["channel_order"],
        input_size=int(row["input_size"]),
        crop_fraction=float(row["crop_fraction"]),
        interpolation=row["interpolation"],
        test_input_size=int(test_size) if test_size else None,
        test_crop_fraction=float(test_crop) if test_crop else None,
    )
    text = (
        "network", "tag", "grammar", "url", "hf_repo", "revision", "hash_kind", "hash", "licence",
    )  # fmt: skip
    return Entry(
        **{name: row[name] for name in (*text, "unsupported", "note")},
        aliases=tuple(row["aliases"].split()),
        default=row["default"] == "yes",
        preprocessing=preprocessing,
        classes=int(row["classes"]),
        top=row["top"] == "yes",
        overrides=dict(_override(item) for item in row["overrides"].split(";") if item),
    )


def _override(item: str) -> tuple[str, Any]:
    name, value = item.split("=")
    is_number = re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", value)
    return name, float(value) if is_number else value
