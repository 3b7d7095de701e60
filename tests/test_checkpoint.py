"""Checkpoints under faults: kills, full disks, damage, doctored files."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.checkpoint import (
    Checkpoint,
    FutureFormatError,
    _seal,
    has_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    rotate_checkpoints,
    save_checkpoint,
)
from metarl.errors import CheckpointError
from metarl.nested_state import flatten_state, unflatten_state


def groups_of(step: int) -> dict:
    """Tensors that differ from step to step, one of each kind that matters."""
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {"weight": torch.randn(5, 3, generator=generator), "step": torch.tensor(step)},
        "rng": {"env": generator.get_state()},
    }


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step, groups_of(step), {"step": step, "best_return": -1.5})


def assert_is_step(checkpoint: Checkpoint, step: int) -> None:
    assert checkpoint.step == checkpoint.state["step"] == step
    for group, named in groups_of(step).items():
        for name, tensor in named.items():
            assert torch.equal(checkpoint.tensors[group][name], tensor)


def rewrite_manifest(path: Path, **changes: object) -> None:
    """Doctor a manifest as somebody would who knows how it is sealed."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    (path / "manifest.json").write_bytes(_seal(manifest | changes))


def doctor(path: Path, name: str, content: bytes) -> None:
    """Replace a member and make the manifest agree, so that only the parser stands between it and us."""
    (path / name).write_bytes(content)
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(path, files=files)


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_dtype_shape_and_layout_comes_back_bit_exact(tmp_path):
    base = torch.randn(4, 6)
    tensors = {
        "transposed": base.T,
        "view": base[1:, ::2],
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "flag": torch.tensor([True, False]),
        "bfloat16": torch.randn(3).to(torch.bfloat16),
        "int64": torch.tensor([-(2**62), 2**62]),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "parameter": torch.nn.Parameter(base),
    }
    loaded = load_checkpoint(save_checkpoint(tmp_path, 1, {"model": tensors}, {})).tensors["model"]
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert (
            loaded[name].numpy(force=True).tobytes() == tensor.detach().contiguous().numpy().tobytes()
            if (tensor.dtype != torch.bfloat16)
            else torch.equal(loaded[name], tensor)
        )


def test_state_comes_back_with_every_bit_of_its_floats(tmp_path):
    state = {"lr": 0.1 + 0.2, "none": None, "worst": float("-inf"), "big": 2**70, "nested": {"ä": [1, True, "x"]}}
    assert load_checkpoint(save_checkpoint(tmp_path, 1, {}, state)).state == state


def test_a_checkpoint_says_its_step_and_the_versions_it_was_written_with(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path, 123))
    assert checkpoint.path.name == "ckpt-00000123"
    assert_is_step(checkpoint, 123)
    assert checkpoint.versions["torch"].startswith("2.") and checkpoint.versions["metarl"]


@pytest.mark.parametrize("state", [{"a": {1: "x"}}, {"a": [torch.zeros(1)]}, {"a": {"b": {1, 2}}}])
def test_state_that_json_would_change_is_refused_before_anything_is_written(tmp_path, state):
    with pytest.raises(TypeError, match=r"state\.a"):
        save_checkpoint(tmp_path / "checkpoints", 1, {}, state)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("group", ["../model", "a/b", "Model", "", "state.json", "x" * 300, "a\0b"])
def test_a_group_that_is_no_plain_word_is_refused(tmp_path, group):
    with pytest.raises(ValueError, match="must be a lower-case word"):
        save_checkpoint(tmp_path, 1, {group: {}}, {})


def test_a_whole_checkpoint_is_never_replaced(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="there already"):
        save(tmp_path, 1)
    assert_is_step(newest_checkpoint(tmp_path), 1)


def test_newest_is_by_number_not_by_name_or_time(tmp_path):
    for step in (123456789, 3, 20):
        save(tmp_path, step)
    assert_is_step(newest_checkpoint(tmp_path), 123456789)


def test_a_folder_without_checkpoints_is_told_from_one_with_damaged_ones(tmp_path):
    for folder in (tmp_path / "not-made-yet", tmp_path):
        assert not has_checkpoint(folder)
        with pytest.raises(CheckpointError, match="nothing was saved there yet"):
            newest_checkpoint(folder)
    (save(tmp_path, 1) / "state.json").unlink()
    assert has_checkpoint(tmp_path)


def test_rotation_keeps_the_last_and_every_tenth(tmp_path):
    for step in range(1, 26):
        rotate_checkpoints(save(tmp_path, step), keep_last=2, keep_every=10)
    assert sorted(os.listdir(tmp_path)) == [f"ckpt-{s:08d}" for s in (10, 20, 24, 25)]


def test_a_damaged_later_checkpoint_neither_crowds_out_nor_blocks_new_ones(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 3) / "state.json").write_bytes(b"")
    rotate_checkpoints(save(tmp_path, 2), keep_last=1)
    assert_is_step(newest_checkpoint(tmp_path), 2)
    save(tmp_path, 3)
    assert_is_step(newest_checkpoint(tmp_path), 3)
    assert (tmp_path / "ckpt-00000003.damaged-1" / "state.json").read_bytes() == b""


def test_leftovers_of_killed_saves_are_ignored_and_then_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "ckpt-00000002.tmp-4242").mkdir()
    (tmp_path / "ckpt-00000002.tmp-4242" / "model.safetensors").write_bytes(b"half")
    assert_is_step(newest_checkpoint(tmp_path), 1)
    save(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == ["ckpt-00000001", "ckpt-00000003"]


# --- damage: each must be refused by name, and the one before it used -------------------------------------


def truncate(name: str, fraction: float):
    def damage(path: Path) -> None:
        raw = (path / name).read_bytes()
        (path / name).write_bytes(raw[: int(len(raw) * fraction)])

    return damage


def swap(path: Path) -> None:
    (path / "model.safetensors").rename(path / "x")
    (path / "rng.safetensors").rename(path / "model.safetensors")
    (path / "x").rename(path / "rng.safetensors")


def link(path: Path) -> None:
    (path / "model.safetensors").rename(path.parent / "elsewhere")
    (path / "model.safetensors").symlink_to(path.parent / "elsewhere")


def fifo(path: Path) -> None:
    (path / "model.safetensors").unlink()
    os.mkfifo(path / "model.safetensors")


def folder_in_place(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").mkdir()


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def escape(path: Path) -> None:
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    (path.parent / "secret.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    rewrite_manifest(path, files=files | {"../secret.safetensors": files["model.safetensors"]})


NAMES = ["manifest.json", "state.json", "model.safetensors", "rng.safetensors"]
DAMAGES = {
    **{f"{name} cut at {f}": (name, truncate(name, f)) for name in NAMES for f in (0.0, 0.5, 0.99)},
    **{f"{name} missing": (name, lambda path, name=name: (path / name).unlink()) for name in NAMES},
    "two swapped": ("safetensors", swap),
    "an extra file": ("payload.pkl", lambda path: (path / "payload.pkl").write_bytes(b"x")),
    "a link to the same bytes": ("model.safetensors is a symbolic link", link),
    "a pipe": ("model.safetensors is not a plain file", fifo),
    "a folder in place of a file": ("model.safetensors", folder_in_place),
    "empty": ("is empty", empty),
    "a path outside": ("refused", escape),
    "another step's manifest": ("step 7", lambda path: rewrite_manifest(path, step=7)),
    "a longer file": ("state.json", lambda path: (path / "state.json").open("ab").write(b" ")),
    "files that are a list": ("refused", lambda path: rewrite_manifest(path, files=["model.safetensors"])),
    "a size that is text": ("refused", lambda path: rewrite_manifest(path, files={"state.json": {"size": "9"}})),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_checkpoint_before_is_used(tmp_path, caplog, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    named, inflict = DAMAGES[damage]
    inflict(path)
    with pytest.raises(CheckpointError, match=named) as refusal:
        load_checkpoint(path)
    assert "ckpt-00000002" in str(refusal.value) and "\n" not in str(refusal.value)
    with caplog.at_level(logging.WARNING):
        assert_is_step(newest_checkpoint(tmp_path), 1)
    assert len(caplog.records) == 1
    assert "ckpt-00000002" in caplog.text and "Using ckpt-00000001 instead" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_anywhere_is_noticed(tmp_path, name):
    path = save(tmp_path, 1)
    sound = (path / name).read_bytes()
    for position in range(0, len(sound), max(1, len(sound) // 150)):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        (path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    (path / name).write_bytes(sound)
    assert_is_step(load_checkpoint(path), 1)


def test_when_nothing_is_whole_the_error_says_what_is_wrong_with_the_newest(tmp_path):
    for step in (1, 2):
        truncate("state.json", 0.5)(save(tmp_path, step))
    with pytest.raises(CheckpointError, match=r"no whole checkpoint in .*ckpt-00000002 is damaged: state\.json"):
        newest_checkpoint(tmp_path)


def test_a_format_of_the_future_is_not_passed_over_for_an_older_checkpoint(tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    rewrite_manifest(path, format_version=2, files={"weights.zarr": "something new"})
    with pytest.raises(FutureFormatError, match=r"format 2.*pip install --upgrade"):
        newest_checkpoint(tmp_path)
    with pytest.raises(FutureFormatError):
        save(tmp_path, 2)
    assert path.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.write_bytes(pickle.dumps({})), "Pickled files are never read"),
        (lambda p: p.mkdir(), "is empty"),
        (lambda p: (p / "model.pt").parent.mkdir() or (p / "model.pt").write_bytes(b""), r"found model\.pt"),
        (lambda p: save(p / "checkpoints", 1), r"name one of its ckpt-\* folders"),
        (lambda p: p.mkdir() or (p / "manifest.json").write_text('{"format": "web-app"}'), "not a metarl checkpoint"),
        (lambda p: p.mkdir() or (p / "manifest.json").write_text("[" * 100_000), "not JSON"),
        (lambda p: p.mkdir() or (p / "manifest.json").write_text(" " * 2_000_000), "expected at most"),
    ],
)
def test_what_is_no_checkpoint_is_told_from_a_damaged_one(tmp_path, make, message):
    make(tmp_path / "foreign")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "foreign")


def test_a_missing_checkpoint_is_answered_with_the_nearest_name(tmp_path):
    save(tmp_path, 10)
    with pytest.raises(CheckpointError, match="Did you mean 'ckpt-00000010'"):
        load_checkpoint(tmp_path / "ckpt-0000010")


@pytest.mark.parametrize("path", ["a\0b", "x" * 300])
def test_a_path_that_cannot_exist_is_one_clear_error(path):
    with pytest.raises(CheckpointError, match="cannot read folder"):
        newest_checkpoint(Path(path))


# --- doctored content whose digests agree ------------------------------------------------------------------


class Bomb:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_pickle_is_refused_and_never_run(tmp_path, name):
    marker = tmp_path / "ran"
    path = save(tmp_path, 1)
    doctor(path, name, pickle.dumps(Bomb(marker)))
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)
    assert not marker.exists()


def safetensors_file(header: str, body: bytes = b"\0" * 8) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + body


HEADERS = {
    "a header of 2^63 bytes": (2**63).to_bytes(8, "little") + b"{}",
    "a header beyond the end": (10**6).to_bytes(8, "little") + b"{}",
    "a shape larger than the body": safetensors_file('{"a":{"dtype":"F32","shape":[99],"data_offsets":[0,8]}}'),
    "an overflow": safetensors_file('{"a":{"dtype":"F32","shape":[99999999999,9999999999],"data_offsets":[0,8]}}'),
    "a negative shape": safetensors_file('{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}'),
    "an unknown dtype": safetensors_file('{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}'),
    "a hole": safetensors_file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'),
    "offsets past the end": safetensors_file('{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'),
    "a header nested deeply": safetensors_file("[" * 100_000),
    "no JSON": safetensors_file("hello"),
}  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_malformed_safetensors_are_one_clear_error(tmp_path, header):
    path = save(tmp_path, 1)
    doctor(path, "model.safetensors", HEADERS[header])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        load_checkpoint(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("saved"), 1)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=64), header=st.text(max_size=60), name=st.sampled_from(["state.json", "model"]))
def test_any_bytes_load_or_are_refused(tmp_path_factory, saved, content, header, name):
    path = shutil.copytree(saved, tmp_path_factory.mktemp("fuzz") / saved.name)
    if name == "state.json":
        doctor(path, name, header.encode("utf-8", "surrogatepass") + content)
    else:
        encoded = header.encode("utf-8", "surrogatepass")
        doctor(path, "model.safetensors", len(encoded).to_bytes(8, "little") + encoded + content)
    with contextlib.suppress(CheckpointError):
        assert load_checkpoint(path).step == 1


# --- a full disk -------------------------------------------------------------------------------------------


def test_a_full_disk_at_any_write_harms_nothing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    real_write = os.write
    for allowed in range(4):  # state, model, rng, manifest
        calls = iter(range(100))

        def write(descriptor, data, allowed=allowed, calls=calls):
            if next(calls) == allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real_write(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(CheckpointError, match=r"No space left on device .*MB free.*--resume"):
            save(tmp_path, 2)
        monkeypatch.setattr(os, "write", real_write)
        assert os.listdir(tmp_path) == ["ckpt-00000001"]
        assert_is_step(newest_checkpoint(tmp_path), 1)


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:7]))
    assert_is_step(load_checkpoint(save(tmp_path, 1)), 1)


def test_a_file_in_place_of_the_folder_is_one_clear_error(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        save(tmp_path / "checkpoints", 1)


# --- kills -------------------------------------------------------------------------------------------------


def test_everything_is_on_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    order = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor):
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def rename(old, new):
        order.append("rename")
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    save(tmp_path, 1)
    temporary = f"ckpt-00000001.tmp-{os.getpid()}"
    files = ["state.json", "model.safetensors", "rng.safetensors", "manifest.json"]
    assert order == [*files, temporary, "rename", tmp_path.name]


SHIM = """
import os, shutil, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from metarl.checkpoint import load_checkpoint, newest_checkpoint, rotate_checkpoints, save_checkpoint

os.fsync = lambda descriptor: None  # a killed process loses nothing that it wrote; only a power cut does
CALLS = ["open", "write", "fsync", "close", "mkdir", "rename", "unlink", "rmdir", "listdir"]

def tensors(step):
    return {"model": {"w": torch.full((4, 4), float(step))}, "rng": {"g": torch.Generator().get_state()}}

def save(folder, step):
    rotate_checkpoints(save_checkpoint(folder, step, tensors(step), {"step": step}), keep_last=1)

def save_and_die_before_call(folder, step, last):
    "Count the system calls of a save with its rotation, and die by SIGKILL before the `last`-th."
    count = 0
    for name in CALLS:
        real = getattr(os, name)
        def counted(*args, real=real, **kwargs):
            nonlocal count
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return real(*args, **kwargs)
        setattr(os, name, counted)
    save(folder, step)
    os._exit(7)  # all calls were allowed

root = Path(sys.argv[1])
seen = set()
for last in range(200):
    folder = root / str(last)
    save(folder, 1)
    child = os.fork()
    if child == 0:
        save_and_die_before_call(folder, 2, last)
    status = os.waitpid(child, 0)[1]
    for path in folder.glob("ckpt-????????"):
        checkpoint = load_checkpoint(path)
        assert checkpoint.state["step"] == checkpoint.step
        assert torch.equal(checkpoint.tensors["model"]["w"], tensors(checkpoint.step)["model"]["w"])
    checkpoint = newest_checkpoint(folder)
    seen.add(checkpoint.step)
    save(folder, 3)
    assert os.listdir(folder) == ["ckpt-00000003"], os.listdir(folder)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 7 and checkpoint.step == 2
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
assert last > 25 and seen == {1, 2}, (last, seen)
sys.stdout.write(f"survived {last} kills")
"""


def run_python(source: str, *args: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(source), *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, **options)


def test_a_kill_before_any_system_call_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    result = run_python(SHIM, str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "survived" in result.stdout


FOREVER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from metarl.checkpoint import rotate_checkpoints, save_checkpoint
step = int(sys.argv[2])
while True:
    tensors = {"model": {"w": torch.full((1 << 19,), float(step))}}
    rotate_checkpoints(save_checkpoint(Path(sys.argv[1]), step, tensors, {"step": step}), keep_last=2)
    sys.stdout.write("saved\\n")
    sys.stdout.flush()
    step += 1
"""


def test_kills_at_random_moments_never_leave_a_half_checkpoint(tmp_path):
    moments = torch.rand(3, generator=torch.Generator().manual_seed(0)).tolist()
    last = 0
    for moment in moments:
        command = [sys.executable, "-c", FOREVER, str(tmp_path), str(last + 1)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert process.stdout is not None
        process.stdout.readline()  # the first save is done, the second one is on its way
        try:
            process.wait(timeout=0.1 * moment)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        for path in tmp_path.glob("ckpt-????????"):
            checkpoint = load_checkpoint(path)
            assert torch.equal(checkpoint.tensors["model"]["w"], torch.full((1 << 19,), float(checkpoint.step)))
        newest = newest_checkpoint(tmp_path).step
        assert newest > last
        last = newest


def test_a_file_size_limit_of_the_system_leaves_the_old_checkpoint(tmp_path):
    source = """
    import resource, sys
    from pathlib import Path
    import torch
    from metarl.checkpoint import save_checkpoint
    from metarl.errors import CheckpointError
    folder = Path(sys.argv[1])
    save_checkpoint(folder, 1, {}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        save_checkpoint(folder, 2, {"model": {"w": torch.zeros(10_000)}}, {})
    except CheckpointError as error:
        sys.stdout.write(str(error))
    """
    result = run_python(source, str(tmp_path))
    assert "File too large" in result.stdout, result.stderr
    assert os.listdir(tmp_path) == ["ckpt-00000001"]
    assert newest_checkpoint(tmp_path).step == 1


# --- nested state ------------------------------------------------------------------------------------------


def train(model, optimizer, num_steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.01, 0.9)])
def test_an_optimiser_resumes_bit_exact_through_a_checkpoint(tmp_path, make):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = make(model.parameters())
    train(model, optimizer, 5, seed=1)
    tensors, structure = flatten_state(optimizer.state_dict())
    path = save_checkpoint(tmp_path, 5, {"model": model.state_dict(), "optimizer": tensors}, {"optimizer": structure})
    train(model, optimizer, 5, seed=2)

    resumed = torch.nn.Linear(3, 2)
    checkpoint = load_checkpoint(path)
    resumed.load_state_dict(checkpoint.tensors["model"])
    optimizer = make(resumed.parameters())
    optimizer.load_state_dict(unflatten_state(checkpoint.tensors["optimizer"], checkpoint.state["optimizer"]))
    train(resumed, optimizer, 5, seed=2)
    assert torch.equal(resumed.weight, model.weight) and torch.equal(resumed.bias, model.bias)


def test_a_generator_continues_its_stream_through_a_checkpoint(tmp_path):
    generator = torch.Generator().manual_seed(3)
    torch.randn(7, generator=generator)
    path = save_checkpoint(tmp_path, 1, {"rng": {"env": generator.get_state()}}, {})
    expected = torch.randn(5, generator=generator)
    restored = torch.Generator()
    restored.set_state(load_checkpoint(path).tensors["rng"]["env"])
    assert torch.equal(torch.randn(5, generator=restored), expected)


def test_nested_state_keeps_integer_keys_tuples_and_colliding_paths():
    nested = {1: (2, [None, True, ("x",)]), "1": {}, "a.b": torch.tensor(1), "a": {"b": torch.tensor(2)}, "e": ()}
    tensors, structure = flatten_state(nested)
    back = unflatten_state(tensors, json.loads(json.dumps(structure)))
    assert back == nested and [type(k) for k in back] == [type(k) for k in nested]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=15,
)


@settings(max_examples=100, deadline=None)
@given(nested=st.dictionaries(st.text() | st.integers(), NESTED))
def test_any_nested_state_round_trips_through_json(nested):
    tensors, structure = flatten_state(nested)
    assert unflatten_state(tensors, json.loads(json.dumps(structure))) == nested


@pytest.mark.parametrize("nested", [{"a": {"b": object()}}, {"a": {"b": {1, 2}}}, {"a": {"b": {(1,): 2}}}])
def test_what_cannot_be_kept_is_named_by_its_path(nested):
    with pytest.raises(TypeError, match=r"a\.b"):
        flatten_state(nested)


@pytest.mark.parametrize(
    "structure", [{"tensor": "gone"}, {"dict": 3}, {"dict": [[1]]}, {"code": "x"}, {}, {"a": 1, "b": 2}]
)
def test_malformed_structure_is_refused(structure):
    with pytest.raises(CheckpointError, match="malformed"):
        unflatten_state({}, structure)


def test_checkpoints_of_every_release_still_load():
    released = sorted((Path(__file__).parent / "data").glob("checkpoint-v*/ckpt-*"))
    assert released
    for path in released:
        checkpoint = load_checkpoint(path)
        assert checkpoint.step == checkpoint.state["step"] == int(checkpoint.tensors["model"]["step"]) == 7
