"""The index of published weights, and fetching: a local server stands for the network."""

from __future__ import annotations

import collections
import csv
import hashlib
import http.server
import re
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

import reszoo
from reszoo.errors import SpecError
from reszoo.preprocessing import Preprocessing
from reszoo.weights import index
from reszoo.weights.index import Entry, WeightsError, entries, fetch, find

SHARED = Path(__file__).resolve().parents[2] / "shared"
BODY = b"weights " * 1000
GRAMMARS = ["torchvision", "timm_v1", "timm_v2", "legacy_senet", "akamaster", "bit_npz"]
GRAMMARS += ["keras_applications_v1", "keras_applications_v2"]


def entry(**values) -> Entry:
    given = {
        "network": "resnet18",
        "tag": "a1_in1k",
        "grammar": "torchvision",
        "licence": "MIT",
        "preprocessing": Preprocessing(),
        "classes": 1000,
        "url": "http://127.0.0.1:9/file.pth",  # nothing listens there
        "hash_kind": "sha256",
        "hash": hashlib.sha256(BODY).hexdigest(),
    }
    return Entry(**{**given, **values})


@pytest.fixture
def server(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            if self.path.startswith("/missing"):
                self.send_error(404)
                return
            self.send_response(200)
            # "/cut": the connection ends before the file does.
            short = self.path.startswith("/cut")
            self.send_header("Content-Length", str(len(BODY) * (2 if short else 1)))
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        running.address = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()
        thread.join()


# --- the index -----------------------------------------------------------------------------------


def test_entries_are_consistent():
    every = entries(unsupported=True)
    names = [e.name for e in every]
    assert len(names) == len(set(names)) > 250
    cached = collections.Counter(e.filename for e in every if e.supported)
    assert max(cached.values()) == 1  # the cache is one directory
    lengths = {"": [0], "sha256": [64], "md5": [32], "sha256-prefix": [8, 9]}
    for e in every:
        assert e.url.startswith(("https://", "http://")) or (e.hf_repo and not e.url)
        assert not e.supported or e.address.startswith("https://")
        assert len(e.hash) in lengths[e.hash_kind]
        assert re.fullmatch("[0-9a-f]*", e.hash)
        assert e.url or not e.hash  # the hash is that of the file at `url`
        assert re.fullmatch("([0-9a-f]{40})?", e.revision) and (e.hf_repo or not e.revision)
        if e.supported:
            assert e.grammar in GRAMMARS
        # torch's convention: the file's name ends in the hash.
        if e.hash_kind == "sha256-prefix":
            assert re.search(rf"-{e.hash}\.\w+$", e.url)


def test_each_data_set_has_one_default_for_each_network():
    groups = collections.defaultdict(list)
    for e in entries():
        if e.classes in (10, 100, 1000) and e.top:
            groups[e.network, e.classes].append(e.default)
    assert all(sum(defaults) == 1 for defaults in groups.values())
    assert not [e.name for e in entries() if e.default and e.classes not in (10, 100, 1000)]


@pytest.mark.parametrize(
    ("network", "word", "tag"),
    [
        # What timm takes for the bare name,
        ("resnet18", "imagenet", "a1_in1k"),
        ("resnet50", "imagenet", "a1_in1k"),
        ("resnet101", "imagenet", "a1h_in1k"),
        ("wide_resnet50_2", "imagenet", "racm_in1k"),
        ("seresnext50_32x4d", "imagenet", "racm_in1k"),
        ("resnetv2_50x1_bit", "imagenet", "goog_distilled_in1k"),
        # but for commercial use where there is a choice.
        ("resnext101_32x4d", "imagenet", "gluon_in1k"),
        ("resnet50v2", "imagenet", "keras_in1k"),
        ("resnet20", "cifar10", "akamaster_cifar10"),
        ("resnet20", "cifar100", "chenyaofo_cifar100"),
        ("resnet50", "IMAGENET1K_V2", "tv2_in1k"),
        ("resnext50_32x4d", "IMAGENET1K_V1", "tv_in1k"),
        ("resnet50", "gluon_in1k", "gluon_in1k"),
    ],
)
def test_find(network, word, tag):
    found = find(network, word)
    assert (found.network, found.tag) == (network, tag)
    assert found.commercial


@pytest.mark.parametrize(
    ("network", "tag", "parts"),
    [
        ("resnet50", "a5_in1k", ['did you mean "a3_in1k"', "tv2_in1k", "IMAGENET1K_V2"]),
        ("resnet20", "imagenet", ["akamaster_cifar10", "cifar100"]),
        ("resnet5O", "imagenet", ["network with published weights", 'did you mean "resnet50"']),
        ("resnet18", "qubvel_in1k", ["cannot be loaded", "bn_data"]),
        ("resnetv2_50d_evos", "ah_in1k", ["cannot be loaded", "EvoNorm"]),
    ],
)
def test_find_refuses_in_one_line(network, tag, parts):
    with pytest.raises(SpecError) as error:
        find(network, tag)
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value)


def test_names_with_weights_load_as_they_are(tmp_path, monkeypatch):
    """Neither verify=False nor allow_noncommercial=True is needed for the default weights."""
    monkeypatch.setattr(index, "_download", lambda entry, path: None)
    listed = reszoo.names(weights=True)
    assert {"resnet18", "resnet50", "resnet20", "resnext101_32x4d", "resnet50v2"} <= set(listed)
    for name in sorted({e.network for e in entries()}):
        defaults = [e for e in entries(name) if e.default]
        assert defaults
        for e in defaults:
            if name in listed:
                assert fetch(e, cache_dir=tmp_path) == tmp_path / e.filename
            else:
                with pytest.raises(WeightsError, match=r"verify=False|allow_noncommercial=True"):
                    fetch(e, cache_dir=tmp_path)
    assert reszoo.names("vgg*", weights=True) == []


def test_entries_by_pattern():
    assert {e.network for e in entries("resnet1?")} == {"resnet18"}
    assert entries("vgg*") == []
    hidden = [e for e in entries("resnet18", unsupported=True) if not e.supported]
    assert hidden and all(e.unsupported for e in hidden)


def test_noncommercial_weights_are_facebooks_semi_supervised_ones():
    barred = {e.name for e in entries() if not e.commercial}
    assert barred == {e.name for e in entries() if re.match("fb_s?w?sl_|fb_wsl_", e.tag)}
    assert len(barred) == 16
    assert {e.licence for e in entries() if not e.commercial} == {"CC-BY-NC-4.0"}


def test_overrides_are_fields_of_the_networks_specs():
    for e in entries():
        spec = reszoo.spec(e.network, **e.overrides)
        assert {name: getattr(spec, name) for name in e.overrides} == e.overrides


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_bottlenecks_of_torch_stride_in_the_3x3(depth):
    placements = {
        e.tag: e.overrides.get("stride_placement", "1x1") for e in entries(f"resnet{depth}")
    }
    ours = {tag for tag, placement in placements.items() if placement == "1x1"}
    assert ours == {"keras_in1k", "keras_in1k_notop"}


def test_cifar_files_bring_their_shortcuts():
    assert find("resnet56", "akamaster_cifar10").overrides == {
        "shortcut": "A",
        "shortcut_pad": "both",
    }
    assert find("resnet56", "chenyaofo_cifar100").overrides == {"shortcut": "B"}
    assert find("resnet56", "chenyaofo_cifar100").label_set == "cifar100"
    assert find("resnet18").label_set == "imagenet1k"
    assert find("resnetv2_50x1_bit", "goog_in21k").label_set is None


def test_importing_needs_neither_numpy_nor_keras():
    program = (
        "import sys; from reszoo.weights import index; index.find('resnet18'); "
        "print(*{'numpy', 'keras', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# --- against the collected table -----------------------------------------------------------------


def table() -> list[dict[str, str]]:
    path = SHARED / "weights.csv"
    if not path.exists():
        pytest.skip("the table that the index was made from is not here")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def places(row: dict[str, str]) -> tuple[str, str]:
    """(url, hub repository) of a row of the table."""
    parts = row["file_or_repo"].split("; ")
    hub = [part.removeprefix("hf: ") for part in parts if part.startswith("hf: ")]
    return next((p for p in parts if "://" in p), ""), next(iter(hub), "")


def test_the_index_holds_every_file_of_the_table():
    missing = [row["name"] for row in table() if places(row) not in by_place()]
    # A file of class names, and handles of another service without address, hash or licence.
    assert missing.pop(0) == "imagenet_class_index.json"
    presets = [r["name"] for r in table() if r["file_or_repo"].startswith("kaggle://")]
    assert missing == presets and len(presets) == 16


def by_place() -> dict[tuple[str, str], Entry]:
    return {(e.url, e.hf_repo): e for e in entries(unsupported=True)}


def test_hashes_licences_and_classes_are_the_tables():
    for row in table():
        if (e := by_place().get(places(row))) is None:
            continue
        assert f"{e.hash_kind}:{e.hash}".strip(":") == row["hash"]
        assert e.licence.lower() == row["licence"].split(" (")[0].lower()
        classes = re.search(r"classes (\d+)|ImageNet-21k|cifar(\d+)_", row["note"] + row["name"])
        expected = next(filter(None, classes.groups()), "21843") if classes else "1000"
        assert e.classes == int(expected), e.name
        if row["source"].startswith("timm"):
            assert e.name == row["name"]


def test_each_preprocessing_text_is_understood():
    kinds: collections.Counter[str] = collections.Counter()
    long = re.compile(
        r"x/255, mean \[(.+)\] std \[(.+)\] RGB; (\d+)px (\w+) crop_pct ([\d.]+)"
        r"(?:; test (\d+)px crop ([\d.]+))?"
    )
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for row in table():
        if (e := by_place().get(places(row))) is None:
            continue
        p, text = e.preprocessing, row["preprocessing"]
        norm = (p.scale * 255, p.mean, p.std, p.channel_order)
        if match := long.fullmatch(text):
            mean, std, size, method, crop, test_size, test_crop = match.groups()
            want = [tuple(map(float, numbers.split(","))) for numbers in (mean, std)]
            assert norm == (1, *want, "rgb")
            assert (p.input_size, p.interpolation) == (int(size), method)
            assert p.crop_fraction == float(crop)
            assert p.evaluation == (int(test_size or size), float(test_crop or crop))
            kinds["timm"] += 1
        elif text.startswith("caffe"):
            assert norm == (255, (103.939, 116.779, 123.68), (1, 1, 1), "bgr")
            kinds["caffe"] += 1
        elif text.startswith("identity"):
            assert norm == (255, (0, 0, 0), (1, 1, 1), "rgb")
            kinds["raw"] += 1
        elif text.startswith(("tf", "(x-127.5)")):
            assert norm == (1, (0.5,) * 3, (0.5,) * 3, "rgb")
            kinds["half"] += 1
        elif text:
            assert "ImageNet mean/std" in text
            assert norm == (1, *imagenet, "rgb")
            kinds["imagenet"] += 1
        else:
            assert row["source"].startswith("chenyaofo")
            kinds["none"] += 1
    assert kinds == {"timm": 183, "caffe": 6, "raw": 22, "half": 22, "imagenet": 33, "none": 8}


@pytest.mark.parametrize("network", ["resnet20", "resnet32"])
def test_a_published_file_put_into_the_cache_is_verified_and_used(network):
    directory = SHARED / "weights"
    if not directory.is_dir():
        pytest.skip("the published files are not here")
    found = fetch(find(network, "cifar10"), cache_dir=directory)
    assert found == directory / find(network, "cifar10").filename


# --- fetching ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("sha256", hashlib.sha256(BODY).hexdigest()),
        ("sha256-prefix", hashlib.sha256(BODY).hexdigest()[:8]),
        ("md5", hashlib.md5(BODY).hexdigest()),
    ],
)
def test_fetch_downloads_once_and_verifies(server, tmp_path, kind, value):
    wanted = entry(url=f"{server.address}/net.pth", hash_kind=kind, hash=value)
    path = fetch(wanted, cache_dir=tmp_path / "new")
    assert path == tmp_path / "new" / "net.pth"
    assert path.read_bytes() == BODY
    assert fetch(wanted, cache_dir=tmp_path / "new") == path
    assert server.asked == ["/net.pth"]
    assert [p.name for p in path.parent.iterdir()] == ["net.pth"]


@pytest.mark.parametrize("kind", ["sha256", "sha256-prefix", "md5"])
def test_wrong_bytes_are_not_kept(server, tmp_path, kind):
    wanted = entry(url=f"{server.address}/net.pth", hash_kind=kind, hash="0" * 8)
    with pytest.raises(WeightsError, match=f"{kind} [0-9a-f]+ instead of 00000000; not kept"):
        fetch(wanted, cache_dir=tmp_path, verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_in_the_cache_is_named_and_left_alone(tmp_path):
    (tmp_path / "file.pth").write_bytes(b"other")
    for verify in (True, False):
        with pytest.raises(WeightsError) as error:
            fetch(entry(), cache_dir=tmp_path, verify=verify)
        assert str(tmp_path / "file.pth") in str(error.value)
        assert hashlib.sha256(b"other").hexdigest() in str(error.value)
        assert (tmp_path / "file.pth").read_bytes() == b"other"


def test_without_network_the_message_says_what_to_put_where(tmp_path):
    with pytest.raises(WeightsError) as error:
        fetch(entry(), cache_dir=tmp_path)
    message = str(error.value)
    assert "\n" not in message and "http://127.0.0.1:9/file.pth" in message
    place = Path(message.split(" save it as ")[1])
    place.write_bytes(BODY)
    assert fetch(entry(), cache_dir=tmp_path) == place


@pytest.mark.parametrize("path", ["cut", "missing"])
def test_a_download_that_fails_leaves_nothing(server, tmp_path, path):
    wanted = entry(url=f"{server.address}/{path}.pth", hash_kind="", hash="")
    with pytest.raises(WeightsError, match="cannot download"):
        fetch(wanted, cache_dir=tmp_path, verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_no_directory(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot download"):
        fetch(entry(url=f"{server.address}/net.pth"), cache_dir=tmp_path / "file")


def test_files_without_hash_need_leave(server, tmp_path):
    wanted = entry(url=f"{server.address}/net.npz", hash_kind="", hash="")
    with pytest.raises(WeightsError, match="verify=False"):
        fetch(wanted, cache_dir=tmp_path)
    assert server.asked == []
    assert fetch(wanted, cache_dir=tmp_path, verify=False).read_bytes() == BODY


def test_noncommercial_licences_need_leave(server, tmp_path):
    wanted = entry(url=f"{server.address}/net.pth", licence="CC-BY-NC-4.0")
    with pytest.raises(WeightsError, match=r"CC-BY-NC-4\.0.*allow_noncommercial=True"):
        fetch(wanted, cache_dir=tmp_path)
    assert server.asked == []
    assert fetch(wanted, cache_dir=tmp_path, allow_noncommercial=True).read_bytes() == BODY


def test_unsupported_files_are_not_fetched(tmp_path):
    with pytest.raises(WeightsError, match="cannot be loaded: because"):
        fetch(entry(unsupported="because"), cache_dir=tmp_path)


def test_file_addresses(tmp_path):
    (tmp_path / "there.pth").write_bytes(BODY)
    wanted = entry(url=(tmp_path / "there.pth").as_uri())
    assert fetch(wanted, cache_dir=tmp_path / "cache").read_bytes() == BODY


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RESZOO_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file.pth").write_bytes(BODY)
    assert fetch(entry()) == tmp_path / "home" / "file.pth"
    monkeypatch.delenv("RESZOO_HOME")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert index.cache_directory() == tmp_path / "reszoo"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert index.cache_directory() == tmp_path / ".keras" / "reszoo"


HUB_ONLY = {"url": "", "hash_kind": "", "hash": "", "hf_repo": "timm/resnet18.a1_in1k"}


def test_hub_files_come_through_huggingface_hub(tmp_path, monkeypatch):
    asked = []

    def hf_hub_download(repo_id, filename):
        asked.append((repo_id, filename))
        return str(tmp_path / "blob")

    fake = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    with pytest.raises(WeightsError, match="verify=False"):
        fetch(entry(**HUB_ONLY), cache_dir=tmp_path)
    assert fetch(entry(**HUB_ONLY), cache_dir=tmp_path, verify=False) == tmp_path / "blob"
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]

    def offline(repo_id, filename):
        raise OSError("no\nnetwork")

    fake.hf_hub_download = offline
    with pytest.raises(WeightsError) as error:
        fetch(entry(**HUB_ONLY), cache_dir=tmp_path, verify=False)
    assert "\n" not in str(error.value) and "resnet18.a1_in1k.safetensors" in str(error.value)
    # A file that was put there by hand comes first.
    (tmp_path / "resnet18.a1_in1k.safetensors").write_bytes(BODY)
    assert fetch(entry(**HUB_ONLY), cache_dir=tmp_path, verify=False).read_bytes() == BODY


def test_a_pinned_revision_stands_for_a_hash(server, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked = []

    def hf_hub_download(repo_id, filename, revision="main"):
        asked.append(revision)
        return str(tmp_path / "blob")

    fake = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    pinned = entry(**HUB_ONLY, revision=commit)
    assert pinned.verified and pinned.free
    assert fetch(pinned, cache_dir=tmp_path) == tmp_path / "blob"
    assert asked == [commit]
    assert pinned.address == (
        f"https://huggingface.co/timm/resnet18.a1_in1k/resolve/{commit}/model.safetensors"
    )
    # A file of another revision, or of none, is not taken for it.
    (tmp_path / entry(**HUB_ONLY).filename).write_bytes(b"other")
    (tmp_path / entry(**HUB_ONLY, revision=commit[::-1]).filename).write_bytes(b"other")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    local = property(lambda self: f"{server.address}/{self.revision}")
    monkeypatch.setattr(Entry, "address", local)
    assert fetch(pinned, cache_dir=tmp_path).read_bytes() == BODY
    assert server.asked == [f"/{commit}"]
    # A branch moves, and a revision of the hub says nothing of a file elsewhere.
    for loose in (
        entry(**HUB_ONLY, revision="main"),
        entry(**HUB_ONLY, revision=commit[:8]),
        entry(**{**HUB_ONLY, "url": f"{server.address}/net.npz"}, revision=commit),
    ):
        with pytest.raises(WeightsError, match=r"no hash or revision .* verify=False"):
            fetch(loose, cache_dir=tmp_path)


def test_without_huggingface_hub_the_hubs_address_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    address = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    assert entry(**HUB_ONLY).address == address
    local = property(lambda self: f"{server.address}/{self.hf_repo}")
    monkeypatch.setattr(Entry, "address", local)
    path = fetch(entry(**HUB_ONLY), cache_dir=tmp_path, verify=False)
    assert path.name == "resnet18.a1_in1k.safetensors" and path.read_bytes() == BODY
    assert server.asked == ["/timm/resnet18.a1_in1k"]
