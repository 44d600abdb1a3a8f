"""TensorFlow checkpoints: one that TensorFlow wrote, others written here to be of every kind and broken in every way."""

from __future__ import annotations

import json
import random
import shutil
import struct
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from dmplus import cli, network, tf_bundle
from dmplus.inference import predict_volume
from dmplus.network import DeepMedic, NetworkConfig
from dmplus.runtime import InputError, machine, rng
from dmplus.tf_bundle import crc32c, masked_crc32c
from dmplus.tf_checkpoint import convert, list_variables, load_network, read_variables, variable_names
from dmplus.volume import read_case

HERE = Path(__file__).parent / "data" / "tf_checkpoint"
REAL = HERE / "deepMedicPlusTiny.model.ckpt"  # written by the authors' program with TensorFlow 2.21, random weights
CPU = ["--device", "cpu", "--precision", "float32"]
SMALL = NetworkConfig(features=(2, 3, 4), residual_layers=(3,), low_factors=(3,), fully_connected=(5, 5), norm_window=7)
ONE = {"residual_layers": (3,), "low_factors": (3,)}  # what a checkpoint of SMALL cannot tell, other than the defaults


# ------------------------------------------------------------------------------- a writer, with a CRC-32C of its own
def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = slow_crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(n: int) -> bytes:
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def message(**fields: int | bytes) -> bytes:
    """A protocol-buffer message; f3=7 is field 3. Zeros are left out, as TensorFlow does; x6=b'....' is fixed32."""
    out = b""
    for key, value in fields.items():
        number = int(key[1:])
        if key[0] == "x":
            out += varint(number << 3 | 5) + value
        elif isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif value:
            out += varint(number << 3) + varint(value)
    return out


def block(records: list[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    """A block with keys shortened by what they share with the one before (in full at every 16th), and its trailer."""
    out, starts, before = b"", [], b""
    for i, (key, value) in enumerate(records):
        shared = 0
        if i % 16 == 0:
            starts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    out += struct.pack(f"<{len(starts) + 1}I", *starts, len(starts)) + bytes([kind])
    return out + masked(out)


CODES = {"float32": 1, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}


def write_bundle(prefix, arrays, *, shards=1, per_block=20, header=None, extra=None, kind=0):
    """Write a checkpoint; ``extra``: entry fields to add by name."""
    files = [b""] * shards
    records = [(b"", message(f1=shards, f3=message(f1=1)) if header is None else header)]
    for i, name in enumerate(sorted(arrays)):
        a, shard = np.asarray(arrays[name]), i % shards
        content = a.tobytes()
        fields = {
            "f1": CODES[str(a.dtype)], "f2": b"".join(message(f2=message(f1=n)) for n in a.shape), "f3": shard,
            "f4": len(files[shard]), "f5": len(content), "x6": masked(content),
        }  # fmt: skip
        records.append((name.encode(), message(**fields | (extra or {}).get(name, {}))))
        files[shard] += content
    table, handles = b"", []
    for i in range(0, len(records), per_block):
        part = block(records[i : i + per_block], kind)
        handles.append((records[min(i + per_block, len(records)) - 1][0], varint(len(table)) + varint(len(part) - 5)))
        table += part
    footer = b""
    for part in (block([]), block(handles)):
        footer += varint(len(table)) + varint(len(part) - 5)
        table += part
    Path(f"{prefix}.index").write_bytes(table + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))
    for i, content in enumerate(files):
        Path(f"{prefix}.data-{i:05d}-of-{shards:05d}").write_bytes(content)
    return prefix


def small(config=SMALL, seed=0) -> tuple[DeepMedic, dict[str, np.ndarray]]:
    """A network with random statistics, and its variables as the authors' program names and keeps them."""
    torch.manual_seed(seed)
    net = DeepMedic(config).eval()
    for name, tensor in net.state_dict().items():
        if not name.endswith("row"):
            tensor += 0.3 * torch.rand_like(tensor)
    state = net.state_dict()
    arrays = {theirs: state[ours].numpy().copy() for ours, theirs in variable_names(net).items()}
    arrays |= {k.replace("muBnsForRollingAverage", "sharedNewMu_B"): v[0] for k, v in arrays.items() if "muBns" in k}
    arrays["trainer/accu_grad_squared"] = np.ones((3, 2), np.float32)
    arrays["trainer/num_epochs_trained"] = np.array(7)
    return net, arrays


def segment(config, edge):
    g = torch.Generator().manual_seed(1)
    margin = 2 * config.margin
    low = [torch.randn(1, 1, *[config.low_size(edge - margin, f)] * 3, generator=g) for f in config.low_factors]
    prior = torch.randn(1, 1, edge, edge, edge, generator=g) if config.prior == "path" else None
    return torch.randn(1, 1, edge, edge, edge, generator=g), low, prior


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def refused(do, *arguments, **options) -> str:
    """The message of the InputError: one line that says what was expected, what came and what to do."""
    with pytest.raises(InputError) as caught:
        do(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and "expected" in text and ("got" in text or "found" in text) and text.count("; ") >= 2
    assert str(HERE) not in text and "/tmp" not in text
    return text


# ------------------------------------------------------------------------------------------------------------ checksum
def test_crc32c_gives_the_published_values():
    known = {  # RFC 3720, B.4, and the usual check value
        b"": 0, b"123456789": 0xE3069283, bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E,
    }  # fmt: skip
    assert {data: crc32c(data) for data in known} == known
    assert crc32c(np.arange(6, dtype=np.float32).reshape(2, 3)) == slow_crc32c(np.arange(6, dtype=np.float32).tobytes())
    assert crc32c(np.arange(12).reshape(3, 4).T) == slow_crc32c(np.arange(12).reshape(3, 4).T.tobytes())
    assert masked_crc32c(b"abc") == struct.unpack("<I", masked(b"abc"))[0]


def test_crc32c_of_every_length(monkeypatch):
    data = rng(0, "crc").bytes(300)
    for step in (tf_bundle._STEP, 8):  # the second: many steps, as in data of more than a mebibyte
        monkeypatch.setattr(tf_bundle, "_STEP", step)
        assert all(crc32c(data[:n]) == slow_crc32c(data[:n]) for n in range(300))


def test_crc32c_is_fast():
    data = bytes(16_000_000)
    crc32c(data[:100])
    seconds = []
    for _ in range(3):
        start = time.process_time()  # other programs' work does not count
        crc32c(data)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.32  # 50 MB/s; an idle core does about 400


# ------------------------------------------------------------------------------------------------ the authors' program
def test_the_authors_network_gives_the_authors_probabilities():
    net = load_network(REAL)
    assert net.config == NetworkConfig(features=tuple(range(4, 13)), fully_connected=(20, 20)) and not net.training
    with np.load(HERE / "corner.npz") as z, torch.inference_mode():
        x = {k: torch.from_numpy(z[k]) for k in z.files}
        prob = net.probabilities(x["x"], [x["x_sub_0"], x["x_sub_1"]], x["x_prior"])
    assert prob.shape == (1, 2, 7, 7, 7) and float((prob - x["prob"]).abs().max()) < 1e-5


def test_what_the_authors_checkpoint_holds():
    found = {v.name: v for v in list_variables(REAL)}
    assert len(found) == 590 and list(found) == sorted(found)
    assert sum(name.startswith("net/") for name in found) == 289
    assert found["net/W_36"].shape == (20, 48, 1, 1, 1) and found["net/muBnsForRollingAverage_32"].shape == (60, 48)
    assert found["trainer/num_epochs_trained"].dtype == "int64" and found["trainer/num_epochs_trained"].shape == ()
    values = read_variables(REAL, ["trainer/init_lr", "net/b_4", "trainer/num_epochs_trained"])
    assert list(values) == ["trainer/init_lr", "net/b_4", "trainer/num_epochs_trained"]
    assert values["trainer/init_lr"] == np.float32(1e-3) and values["trainer/num_epochs_trained"] == 0
    assert read_variables(REAL, []) == {}
    assert (
        sorted(read_variables(f"{REAL}.index"))
        == sorted(read_variables(f"{REAL}.data-00000-of-00001"))
        == sorted(found)
    )
    assert "did you mean net/W_3" in refused(read_variables, REAL, ["net/W3"])


# ------------------------------------------------------------------------------------------------------ every kind
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("per_block", [1, 20, 1000])
def test_reads_what_was_written(tmp_path, shards, per_block):
    draw = rng(0, "arrays")
    arrays = {f"net/W_{i}": draw.normal(size=(i % 3 + 1, 2)).astype(np.float32) for i in range(70)}
    arrays |= {f"a/{t}": draw.integers(0, 2, (3, 1, 2)).astype(t) for t in CODES}
    arrays |= {"scalar": np.array(-5), "empty": np.zeros((0, 3), np.float32), "é": np.ones(2, np.float32)}
    prefix = write_bundle(tmp_path / "some.ckpt", arrays, shards=shards, per_block=per_block)
    assert [(v.name, v.dtype, v.shape) for v in list_variables(prefix)] == [
        (k, str(arrays[k].dtype), arrays[k].shape) for k in sorted(arrays, key=str.encode)
    ]
    found = read_variables(prefix)
    assert all(np.array_equal(found[k], arrays[k]) and found[k].dtype == arrays[k].dtype for k in arrays)
    assert all(a.flags.writeable for a in found.values())


@pytest.mark.parametrize(
    ("prior", "low_factors"), [("path", (3,)), ("none", (3, 5)), ("path", (3, 5)), ("none", ()), ("path", ())]
)
def test_networks_with_and_without_prior(tmp_path, prior, low_factors):
    config = NetworkConfig(
        prior=prior, features=(2, 3, 4), residual_layers=(3,), low_factors=low_factors, fully_connected=(5, 6)
    )
    net, arrays = small(config)
    prefix = write_bundle(tmp_path / "net.ckpt", arrays, shards=2)
    again = load_network(prefix, residual_layers=[3], low_factors=list(low_factors))
    assert again.config == config and not again.training
    with torch.inference_mode():
        x = segment(config, 11)
        assert torch.equal(net(*x), again(*x))


def test_choices_that_a_checkpoint_cannot_tell(tmp_path):
    prefix = write_bundle(tmp_path / "net.ckpt", small()[1])
    config = load_network(
        prefix, **ONE, residual_fully_connected=(), dropout=(0, 0.2, 0.1), dropout_scaling="inverted"
    ).config
    assert (config.residual_fully_connected, config.dropout, config.dropout_scaling) == ((), (0, 0.2, 0.1), "inverted")
    assert config.norm_window == 7 and config.low_grid == "released" and config.norm_epsilon < 1e-37
    for choice, words in (
        ({"residual_layers": (4,)}, "residual layers from 2 to 3; got 4"),
        ({"residual_layers": (1,)}, "residual layers from 2 to 3; got 1"),
        ({"residual_fully_connected": (4,)}, "from 2 to 3; got 4"),
        ({"low_factors": (4,)}, "odd low-resolution factors"),
        ({"low_factors": (3, 5, 7)}, "4 paths, or 5 with a prior, for low-resolution factors 3, 5, 7; got 3 paths"),
        ({"low_factors": ()}, "1 paths, or 2 with a prior, for low-resolution factors none; got 3 paths"),
        ({"dropout": (0, 0)}, "3 dropout rates"),
        ({"dropout": (0, 0, 1.5)}, "dropout rates from 0"),
        ({"dropout_scaling": "no"}, "dropout_scaling released or inverted"),
    ):
        assert words in refused(load_network, prefix, **ONE | choice)


# --------------------------------------------------------------------------------------------------------------- damage
@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("whole") / "net.ckpt", small()[1], shards=2)


def copied(prefix: Path, folder: Path) -> Path:
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        shutil.copyfile(path, folder / path.name)
    return folder / prefix.name


def test_every_byte_of_the_index_counts(tmp_path):
    some = {f"net/W_{i}": np.full(i, i, np.float32) for i in range(10)}
    prefix = write_bundle(tmp_path / "net.ckpt", some, per_block=4)
    index = Path(f"{prefix}.index")
    good = index.read_bytes()
    draw = random.Random(0)
    for i in range(len(good)):
        index.write_bytes(good[:i] + bytes([good[i] ^ draw.randrange(1, 256)]) + good[i + 1 :])
        refused(list_variables, prefix)
    for n in sorted(draw.sample(range(len(good)), 40)):
        index.write_bytes(good[:n])
        assert "index" in refused(list_variables, prefix)
    index.write_bytes(good + b"\0")
    refused(list_variables, prefix)


@pytest.mark.parametrize("prefix", ["whole", REAL], ids=["written here", "written by TensorFlow"])
def test_every_byte_of_the_data_counts(prefix, whole, tmp_path):
    prefix, choices = (whole, ONE) if prefix == "whole" else (prefix, {})
    prefix = copied(prefix, tmp_path)
    draw = random.Random(0)
    for path in tmp_path.glob("*.data-*"):
        good = path.read_bytes()
        for i in [0, len(good) - 1, *draw.sample(range(len(good)), 30)]:
            path.write_bytes(good[:i] + bytes([good[i] ^ 1 << draw.randrange(8)]) + good[i + 1 :])
            text = refused(load_network, prefix, **choices)
            assert path.name in text and "checksum" in text and "copy it again" in text
        for n in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:n])
            assert f"a file of {n} bytes" in refused(load_network, prefix, **choices)
        path.write_bytes(good)
    load_network(prefix, **choices)


def test_a_missing_file_is_named(whole, tmp_path):
    prefix = copied(whole, tmp_path)
    Path(f"{prefix}.data-00001-of-00002").unlink()
    assert "2 data files beside the index; found no net.ckpt.data-00001-of-00002" in refused(load_network, prefix)
    Path(f"{prefix}.index").unlink()
    assert "found no net.ckpt.index; check the path" in refused(load_network, prefix)


def test_things_that_are_no_checkpoint(whole, tmp_path):
    network.save(tmp_path / "w.safetensors", DeepMedic(network.preset("smoke")))
    assert "needs no conversion" in refused(load_network, tmp_path / "w.safetensors")
    shutil.copyfile(tmp_path / "w.safetensors", tmp_path / "w.index")
    assert "another kind of file" in refused(load_network, tmp_path / "w.index")
    (tmp_path / "empty.index").touch()
    assert "another kind of file" in refused(load_network, tmp_path / "empty")
    (tmp_path / "net.pt").write_bytes(b"PK")
    assert "got a file of another kind" in refused(load_network, tmp_path / "net.pt")
    assert "got a folder; pass" in refused(load_network, tmp_path / "..")
    assert "it holds net.ckpt.index" in refused(load_network, whole.parent)


def test_checkpoints_of_other_programs(tmp_path):
    at = tmp_path / "other.ckpt"
    foreign = {"model/kernel": np.ones((3, 3), np.float32), "step": np.array(3)}
    assert "2 others, such as model/kernel" in refused(load_network, write_bundle(at, foreign))
    assert "0 others, such as none" in refused(load_network, write_bundle(at, {}))
    text = {"step": {"f1": 7}}
    assert "expected numbers in step; got type 7" in refused(read_variables, write_bundle(at, foreign, extra=text))
    assert list_variables(at)[1].dtype == "type 7" and list(read_variables(at, ["model/kernel"])) == ["model/kernel"]
    for options, words in (
        ({"header": message(f1=1, f2=1)}, "little-endian"),
        ({"header": b""}, "header"),
        ({"header": message(f1=100_000)}, "1 to 99999 shards"),
        ({"header": b"\x08"}, "cannot be read"),
        ({"kind": 1}, "uncompressed"),
        ({"extra": {"step": {"f3": 4}}}, "one of 1 shards; got shard 4"),
        ({"extra": {"step": {"f7": message(f1=1)}}}, "slices"),
        ({"extra": {"step": {"f5": 4}}}, "another size"),
        ({"extra": {"step": {"f4": 1 << 62}}}, "a file of 44 bytes"),
        ({"extra": {"step": {"f2": message(f2=message(f1=(1 << 64) - 1))}}}, "another size"),
    ):
        assert words in refused(read_variables, write_bundle(at, foreign, **options))


def test_networks_that_dmplus_has_no_words_for(tmp_path):
    def changed(**changes):
        arrays = small()[1]
        for name, value in changes.items():
            name = "net/" + name
            arrays[name] = np.zeros(value, np.float32) if isinstance(value, tuple) else value(arrays[name])
        return write_bundle(tmp_path / "net.ckpt", {k: v for k, v in arrays.items() if v is not None})

    for changes, words in (
        ({"W_4": (5, 2, 3, 3, 3)}, "3 paths of 3 layers with 2, 3, 4 channels each; got 2, 5, 4 in path 2"),
        ({"W_9": (5, 12, 3, 3, 3)}, "1x1x1 after them; got 3x3x3 and 1x1x1, 3x3x3"),
        ({k: (2, 2, 3, 3, 3) for k in ("W", "W_3", "W_6")}, "1 image channel and 2 classes; got 2 and 2"),
        ({"W_11": (5, 5, 1, 1, 1)}, "1 image channel and 2 classes; got 1 and 5"),
        ({"gBn_2": (9,)}, "expected net/gBn_2 of shape (2,)"),
        ({"aPrelu_1": lambda _: None}, "expected the variable net/aPrelu_1"),
        ({"gBn_9": (4,)}, "expected the 61 variables of this network; got 1 more, such as net/gBn_9"),
        ({"bBn_3": lambda a: a * np.float32("nan")}, "others in net/bBn_3"),
    ):
        assert words in refused(load_network, changed(**changes), **ONE)


# ------------------------------------------------------------------------------------------------------------- the doors
@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A small stripped brain of noise."""
    shape = (33, 30, 28)
    grid = np.stack(np.meshgrid(*[np.linspace(-1.1, 1.1, n) for n in shape], indexing="ij"))
    image = np.where((grid**2).sum(0) < 1, 100 + 20 * rng(0, "scan").standard_normal(shape), 0).astype(np.float32)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
    return path


def error_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("dmplus: error: "), (out, err)
    return err


def test_convert_then_predict_is_predict(tmp_path, scan, capsys):
    out = tmp_path / "new" / "authors.safetensors"
    assert cli.main(["convert", str(REAL), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "590 variables read" in said and "with a path for the prior" in said
    assert tree(tmp_path / "new") == ["authors.json", "authors.safetensors"]
    ours, theirs = network.load(out), load_network(REAL)
    assert ours.config == theirs.config
    assert all(torch.equal(a, theirs.state_dict()[k]) for k, a in ours.state_dict().items())
    beside = json.loads(out.with_suffix(".json").read_text())
    names = [f"{REAL.name}.index", f"{REAL.name}.data-00000-of-00001"]
    assert beside["files"] == names and beside["variables"] == 590 and beside["versions"]["torch"]
    assert beside["network"]["residual_layers"] == [4, 6, 8] and beside["not_in_checkpoint"]["low_factors"] == [3, 5]
    assert str(REAL.parent) not in out.with_suffix(".json").read_text()
    assert network.info(out)["info"]["files"] == names

    maps = []
    for i, source in enumerate((REAL, f"{REAL}.index", out)):
        folder = tmp_path / str(i)
        assert cli.main(["predict", str(scan), "-o", str(folder), "--sens", str(source), *CPU]) == 0
        assert "not sorted into tiers: only one model" in capsys.readouterr().out
        assert not (folder / "spec_probability.nii.gz").exists()
        maps.append(nibabel.load(folder / "sens_probability.nii.gz").get_fdata(dtype=np.float32))
        segmentation = np.asarray(nibabel.load(folder / "segmentation.nii.gz").dataobj)
        assert np.array_equal(segmentation > 0, maps[-1] >= 0.5) and 0 < segmentation.sum() < segmentation.size
        assert set(pd.read_csv(folder / "lesions.csv")["tier"]) == {"untiered"}
        report = json.loads((folder / "run.json").read_text())
        assert report["tiers"] is False and list(report["weights"]) == ["sens"]
        assert report["settings"]["tiling"] == "released"
        assert report["weights"]["sens"]["info"]["files"] == names
        assert report["weights"]["sens"]["file"] == (out.name if source is out else names[0])
        assert str(REAL.parent) not in (folder / "run.json").read_text()
    assert np.array_equal(maps[0], maps[1]) and np.array_equal(maps[0], maps[2])
    case, _ = read_case(scan)
    for tiling in ("released", "aligned"):  # released is the default for the authors' weights
        direct = predict_volume(
            theirs, case.normalised().image, mask=case.mask, tiling=tiling, machine=machine("cpu", "float32")
        )
        assert (np.abs(direct - maps[0]).max() < 1e-6) == (tiling == "released")
        folder, source = tmp_path / tiling, str(REAL)
        assert cli.main(["predict", str(scan), "-o", str(folder), "--sens", source, "--tiling", tiling, *CPU]) == 0
        map_ = nibabel.load(folder / "sens_probability.nii.gz").get_fdata(dtype=np.float32)
        assert np.abs(direct - map_).max() < 1e-6


def test_a_checkpoint_as_one_of_two_models_gives_tiers(tmp_path, scan, capsys):
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--sens", str(REAL), "--spec", str(REAL), *CPU]
    assert cli.main(arguments) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["tiers"] is True


def test_info_of_a_checkpoint(capsys):
    assert cli.main(["info", f"{REAL}.index"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == f"{REAL.name}.index" and said["network"]["fully_connected"] == [20, 20]
    assert said["parameters"] == sum(p.numel() for p in load_network(REAL).parameters()) and len(said["sha256"]) == 64


def test_the_hash_covers_the_data(whole, tmp_path):
    from dmplus.network import weights_files

    assert [p.name for p in weights_files(whole)] == [f"net.ckpt{e}" for e in (
        ".index", ".data-00000-of-00002", ".data-00001-of-00002",
    )]  # fmt: skip
    assert [p.name for p in weights_files("sens")] == ["sens.safetensors"]


def test_convert_with_the_choices_of_another_network(tmp_path, whole, capsys):
    out = tmp_path / "w.safetensors"
    command = ["convert", f"{whole}.index", "-o", str(out), "--residual-layers", "3", "--low-factors", "3"]
    assert cli.main([*command, "--residual-fully-connected", "--dropout", "0", "0.25", "0.5"]) == 0
    config = network.load(out).config
    assert (config.residual_layers, config.low_factors, config.residual_fully_connected) == ((3,), (3,), ())
    assert config.dropout == (0, 0.25, 0.5)
    capsys.readouterr()
    before = out.read_bytes()
    assert cli.main(command) == 2 and "pass --overwrite" in error_line(capsys) and out.read_bytes() == before
    assert cli.main([*command, "--overwrite"]) == 0
    assert network.load(out).config.residual_fully_connected == (2,) and tree(tmp_path) == ["w.json", "w.safetensors"]
    out.unlink()
    capsys.readouterr()
    assert cli.main(command) == 2 and "w.json" in error_line(capsys) and tree(tmp_path) == ["w.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "-o", "new/w.safetensors"], "found no nowhere.index"),
        ([str(REAL), "-o", "new/w.pt"], "ends in .safetensors"),
        ([str(REAL), "-o", "new/w.safetensors", "--low-factors", "3", "5", "7", "9"], "--low-factors"),
        ([str(REAL), "-o", "new/w.safetensors", "--low-factors", "three"], "invalid int value: 'three'"),
        ([str(REAL), "-o", "new/w.safetensors", "--residual-layers", "12"], "residual layers from 2 to 9; got 12"),
        ([str(REAL), "-o", "new/w.safetensors", "--dropout", "0.5"], "3 dropout rates"),
        ([str(REAL)], "-o/--out"),
    ],
)
def test_what_convert_refuses_leaves_nothing_behind(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", *arguments]) == 2
    assert words in error_line(capsys) and tree(tmp_path) == []


def test_a_convert_that_fails_midway_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        convert(REAL, tmp_path / "w.safetensors")
    assert tree(tmp_path) == []


def test_a_damaged_checkpoint_stops_predict_in_one_line(tmp_path, scan, capsys):
    prefix = copied(REAL, tmp_path)
    data = Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-4])
    assert cli.main(["predict", str(scan), "-o", str(tmp_path / "out"), "--sens", str(prefix), *CPU]) == 2
    assert "copy it again" in error_line(capsys) and not (tmp_path / "out").exists()
    assert (
        cli.main(["predict", str(scan), "-o", str(tmp_path / "out"), "--sens", str(tmp_path / "no.index"), *CPU]) == 2
    )
    assert "found no no.index" in error_line(capsys) and not (tmp_path / "out").exists()


def test_help_of_convert_reads_like_documentation(capsys):
    assert cli.main(["convert", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("example", "dmplus convert", "what comes out", "exit codes", "130"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100
