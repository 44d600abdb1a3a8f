"""Files are whole or absent, streams are keyed, the machine is asked once, configurations refuse what they do not know."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dmplus import runtime
from dmplus.runtime import InputError, Progress, clock, from_dict, replacing, rng, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.nii.gz"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as part:
        assert part.name.endswith(".nii.gz") and part.parent == tmp_path
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.nii.gz"]
    with replacing(target) as part:
        part.touch(mode=0o600)
        part.write_text("new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["a.nii.gz"]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_holds_no_nan_and_no_folder(tmp_path):
    content = {"a": float("nan"), "b": np.float32(0.5), "c": np.arange(3), "d": tmp_path / "scan.nii.gz", "e": (1, 2)}
    write_json(tmp_path / "x.json", content)
    expected = {"a": None, "b": 0.5, "c": [0, 1, 2], "d": "scan.nii.gz", "e": [1, 2]}
    assert json.loads((tmp_path / "x.json").read_text()) == expected


def test_a_writable_folder_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    assert runtime.writable_folder(tmp_path / "new" / "run") == tmp_path / "new" / "run"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    places = ["file", "link", "file/below", "n" * 300] + ["/proc/dmplus"] * (sys.platform == "linux")
    for place in places:
        with pytest.raises(InputError, match=r"^output \w+: expected a .*; got.*; choose another$"):
            runtime.writable_folder(tmp_path / place)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "link"}
    with pytest.raises(InputError, match="got one without config.json that holds file; choose"):
        runtime.writable_folder(tmp_path, own="config.json")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert runtime.writable_folder(".", own="config.json") == tmp_path


def test_every_path_has_a_name():
    assert [runtime.named(p) for p in ("a/b.nii", ".", "/", "..", "a/")] == ["b.nii", ".", "/", "..", "a"]


@dataclasses.dataclass(frozen=True)
class Some:
    a: int = 1
    b: tuple[int, ...] = ()


def test_configurations_refuse_unknown_keys():
    assert from_dict(Some, {"b": [1, 2]}) == Some(b=(1, 2))
    with pytest.raises(InputError, match="only the keys a, b; got c, d"):
        from_dict(Some, {"c": 1, "d": 2})


def test_streams_depend_on_every_part_of_the_key():
    def first(*key):
        return rng(*key).random()

    assert first(1, "a", 2) == first(1, "a", 2)
    assert len({first(1, "a", 2), first(2, "a", 2), first(1, "b", 2), first(1, "a", 3)}) == 4


def test_machine_is_decided_by_a_probe_or_as_asked():
    probed = runtime.machine("cpu")
    assert probed.precision in ("float32", "bfloat16") and "probe" in probed.why
    assert runtime.machine("cpu") is probed  # measured once
    asked = runtime.machine("cpu", "float32")
    assert asked.precision == "float32" and "as asked" in asked.why
    with pytest.raises(InputError, match="'tpu'"):
        runtime.machine("tpu")


def test_progress_says_how_much_is_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runtime.time, "monotonic", lambda: now[0])
    report = Progress(10, "tiles", every=5)
    report.step()
    assert capsys.readouterr().err == ""  # nothing for what is over soon
    now[0] = 20.0
    report.step()
    assert capsys.readouterr().err == "tiles: 2/10, 1:20 min left\n"
    assert (clock(42), clock(75), clock(7500)) == ("42 s", "1:15 min", "2:05 h")


def test_a_resumed_count_does_not_spoil_the_estimate(capsys, monkeypatch):
    """A run resumed at 900 of 1000 that took 10 s for 10 steps has 90 s left, not 1 s."""
    now = [0.0]
    monkeypatch.setattr(runtime.time, "monotonic", lambda: now[0])
    report = Progress(1000, "training", done=900, every=5)
    now[0] = 10.0
    report.step(10)
    assert capsys.readouterr().err == "training: 910/1000, 1:30 min left\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator in question is glibc's")
def test_the_allocator_is_cured_by_one_restart():
    code = "from dmplus import runtime; runtime.cure_allocator(); print(runtime.allocator_cured())"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "DMPLUS_"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", done.stderr


def test_progress_in_a_notebook_is_no_error(capsys, monkeypatch):
    for kernel, stream in ((SimpleNamespace(), "err"), (SimpleNamespace(kernel=1), "out")):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda k=kernel: k))
        Progress(2, "tiles", every=0).step()
        said = capsys.readouterr()._asdict()
        assert said.pop(stream).startswith("tiles: 1/2") and list(said.values()) == [""]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_changes_are_marked_but_not_those_that_notebooks_write(tmp_path):
    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *names, *words], check=True, capture_output=True)

    written = ("a.py", "notebooks/n.ipynb", "notebooks/results/n.quick.json", "notebooks/results/rows.csv")
    (tmp_path / "notebooks" / "results").mkdir(parents=True)
    for name in written:
        (tmp_path / name).write_text("1")
    assert runtime.commit(tmp_path) == ""  # no checkout
    git("init"), git("add", "."), git("commit", "-m", "one")
    clean = runtime.commit(tmp_path)
    assert len(clean) == 10
    for name, mark in zip(written, ("+", "", "", "+"), strict=True):
        (tmp_path / name).write_text("2")
        assert runtime.commit(tmp_path) == clean + mark, name
        (tmp_path / name).write_text("1")
