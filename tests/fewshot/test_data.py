"""Loaders: the layout of the real data sets, splits that share nothing, and files that are broken or missing."""

import http.server
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from metarl.errors import ConfigError, DataError, UnknownNameError
from metarl.fewshot.data import DATA_SETS, make_options, mini_imagenet, objects, omniglot, open_data, spoken_digits
from metarl.fewshot.data import borealtc as terrain
from metarl.fewshot.data.borealtc import BorealTCOptions
from metarl.fewshot.data.mini_imagenet import MiniImageNetOptions
from metarl.fewshot.data.objects import ObjectsOptions
from metarl.fewshot.data.omniglot import OmniglotOptions
from metarl.fewshot.data.pack import PackedData, cached, load_pack, save_pack
from metarl.fewshot.data.source import Remote, content_digest, download
from metarl.fewshot.data.spoken_digits import SpokenDigitsOptions
from metarl.fewshot.sampler import EpisodeShape
from tests.fewshot.synthetic import (
    digit_files,
    imu,
    omniglot_files,
    packed,
    png,
    table,
    terrain_files,
    tone,
    wav,
    wheels,
    write_folder,
    write_omniglot_zips,
)

REAL_CHECKS = ("omniglot", "spoken-digits", "borealtc")


def classes_of(data, *splits):
    return [set(data.class_ids[data.split(split).samples].tolist()) for split in splits]


def groups_of(data, *splits):
    return [set(data.group_ids[data.split(split).samples].tolist()) for split in splits]


@pytest.mark.parametrize("name", REAL_CHECKS)
def test_every_data_set_opens_and_gives_episodes_on_all_its_splits(small_data, name):
    source = open_data(name, data_dir=small_data)
    assert set(DATA_SETS[name].splits) <= set(source.splits)
    for split in DATA_SETS[name].splits:
        shape = EpisodeShape(ways=3, shots=1, queries=2)
        episode = source.sample(split, shape, 2, torch.Generator().manual_seed(0))
        assert episode.x_shape == source.x_shape and episode.support_x.isfinite().all()


def test_omniglot_reads_a_folder_and_the_official_zips_alike(tmp_path):
    files = omniglot_files(drawings=2)
    folder = omniglot.load(OmniglotOptions(), write_folder(tmp_path / "folder", files))
    zips = omniglot.load(OmniglotOptions(), write_omniglot_zips(tmp_path / "zips", files))
    assert torch.equal(folder.x, zips.x) and folder.class_names == zips.class_names
    assert folder.x.dtype == torch.uint8 and folder.x.shape == (52, 1, 28, 28)
    assert len(folder.class_names) == 26 and set(folder.group_names) >= {"Greek", "Keble"}


def test_ink_is_bright_and_paper_is_zero(tmp_path):
    name = "images_background/Greek/character01/0001_01.png"
    paper = np.ones((28, 28), dtype=bool)
    paper[3, 5] = False
    x = omniglot.load(OmniglotOptions(), write_folder(tmp_path, {name: png(paper)})).x
    assert x[0, 0, 3, 5] == 255 and int(x.sum()) == 255


@pytest.mark.parametrize("split_by", ["vinyals", "lake", "maml"])
def test_omniglot_splits_share_no_character(small_data, split_by):
    data = omniglot.load(OmniglotOptions(split_by=split_by), small_data)
    train, validation, test = classes_of(data, "train", "validation", "test")
    assert not train & validation and not train & test and not validation & test
    assert data.split("test").quarter_turns == (0, 1, 2, 3) and data.split("test-upright").quarter_turns == (0,)
    assert classes_of(data, "test-upright") == [test]


def test_the_vinyals_split_has_gurmukhi_on_both_sides(small_data):
    data = omniglot.load(OmniglotOptions(), small_data)
    parts = classes_of(data, "train", "validation", "test")
    names = [{data.class_names[i].split("/")[1] for i in part} for part in parts]
    assert names == [{"Greek", "Latin", "Gurmukhi"}, {"Hebrew"}, {"Keble"}]
    gurmukhi = tuple(f"images_evaluation/Gurmukhi/character{i}" for i in (41, 42))
    assert omniglot._vinyals(gurmukhi).tolist() == [0, 2]


def test_a_broken_png_is_named_and_skipped_only_if_asked(tmp_path):
    files = omniglot_files(drawings=2)
    name = "images_background/Greek/character02/0002_01.png"
    files[name] = files[name][:40]
    folder = write_folder(tmp_path, files)
    with pytest.raises(DataError, match=f"image {name} cannot be read .* --skip-broken"):
        omniglot.load(OmniglotOptions(), folder)
    assert len(omniglot.load(OmniglotOptions(), folder, skips_broken=True).x) == 51


def test_a_missing_folder_and_a_folder_of_something_else_are_told_apart(tmp_path):
    with pytest.raises(DataError, match=r"omniglot: no such data folder .*nowhere.* --data-dir"):
        open_data("omniglot", data_dir=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither \*.png nor images_background.zip, images_evaluation.zip"):
        open_data("omniglot", data_dir=tmp_path / "empty")
    (tmp_path / "empty" / "images_background.zip").write_bytes(b"no zip")
    (tmp_path / "empty" / "images_evaluation.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"images_background\.zip is no whole zip archive"):
        open_data("omniglot", data_dir=tmp_path / "empty")


def test_unknown_data_sets_and_options_are_named():
    with pytest.raises(UnknownNameError, match=r"unknown data set 'omniglod'. Did you mean 'omniglot'"):
        open_data("omniglod")
    with pytest.raises(ConfigError, match="split_by is 'mine'"):
        make_options("omniglot", {"split_by": "mine"})
    with pytest.raises(UnknownNameError, match="unknown surface 'mud'"):
        BorealTCOptions(held_out=("mud",))


def test_digits_of_the_test_are_by_speakers_that_training_never_heard(small_data):
    for fold in range(3):
        data = spoken_digits.load(SpokenDigitsOptions(fold=fold), small_data)
        train, test = groups_of(data, "train", "test")
        assert not train & test and len(train) == 4 and len(test) == 2
        assert classes_of(data, "train", "test") == [set(range(10))] * 2
    held_out = spoken_digits.load(SpokenDigitsOptions(held_out=("7", "3")), small_data)
    assert classes_of(held_out, "train", "test") == [{0, 1, 2, 4, 5, 6, 8, 9}, {3, 7}]


def test_a_tone_lies_in_the_mel_band_around_it():
    filters = spoken_digits.mel_filters()
    assert (filters.sum(0) > 0).all()
    low_then_high = torch.from_numpy(np.concatenate([tone(400), tone(2500)])).float()
    features = spoken_digits.log_mel(low_then_high)
    hz = torch.linspace(0, 4000, len(filters))
    peaks = [float(hz[filters[:, int(features[:, frame].argmax())].argmax()]) for frame in (12, 36)]
    assert peaks == pytest.approx([400, 2500], rel=0.06)


def test_the_features_of_a_word_depend_neither_on_loudness_nor_on_speed():
    def chirp(seconds, loudness):
        phase = np.linspace(0, 1, round(8000 * seconds))
        sound = loudness * np.sin(2 * np.pi * seconds * (300 * phase + 500 * phase**2))
        return spoken_digits.log_mel(torch.from_numpy(sound).float())

    usual = chirp(0.5, 1.0)
    assert torch.allclose(usual, chirp(0.5, 0.1), atol=1e-3)
    assert (usual - chirp(0.8, 1.0)).abs().mean() < 0.25 * usual.std()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"RIFF", "cannot be read"),
        (wav(tone(440), rate_hz=16_000), "is sampled at 16000 Hz, expected 8000 Hz"),
        (wav(tone(440), channels=2), "has 2 channels of 16 bits, expected 1 of 16"),
        (wav([]), "is empty"),
    ],
)
def test_a_broken_recording_is_named_and_skipped_only_if_asked(tmp_path, content, complaint):
    files = digit_files(speakers=("ann", "bob", "cid"), takes=1) | {"recordings/4_bob_0.wav": content}
    folder = write_folder(tmp_path, files)
    with pytest.raises(DataError, match=f"recording recordings/4_bob_0.wav {complaint}.*--skip-broken"):
        spoken_digits.load(SpokenDigitsOptions(), folder)
    assert len(spoken_digits.load(SpokenDigitsOptions(), folder, skips_broken=True).x) == 29


def test_windows_of_the_terrain_lie_in_one_run_and_runs_in_one_split(small_data):
    for fold in range(3):
        data = terrain.load(BorealTCOptions(fold=fold), small_data)
        train, test = groups_of(data, "train", "test")
        assert not train & test and len(test) == 10 and len(train) == 20
    # 6 s at 100 Hz: windows of 2 s start every 0.5 s.
    assert data.x.shape == (30 * 9, 10, 200)
    assert {name.partition("/")[0] for name in data.group_names} == set(terrain.SURFACES)


def test_wheel_signals_are_interpolated_to_the_clock_of_the_imu(small_data):
    data = terrain.load(BorealTCOptions(), small_data)
    expected = torch.arange(200) / 100  # the synthetic current of the left wheels is the time
    assert torch.allclose(data.x[0, 6], expected, atol=1e-4)
    assert torch.allclose(data.x[1, 9], expected + 0.5 + 3, atol=1e-4)


def test_held_out_surfaces_are_in_the_test_alone(small_data):
    data = terrain.load(BorealTCOptions(held_out=("ice", "snow")), small_data)
    train, test = classes_of(data, "train", "test")
    assert {terrain.SURFACES[i] for i in test} == {"ice", "snow"} and len(train) == 3 and not train & test


_TIME_S = np.arange(600) / 100
_HEADER = ("time", "wx", "wy", "wz", "ax", "ay", "az")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (imu(rate_hz=50.0), "is sampled at 50 Hz, expected 100 Hz"),
        (wheels(), "has the columns"),
        (imu()[:-30] + b"x\n", "is no table of numbers"),
        (table(_HEADER, [[t, 0, 0, np.nan, 0, 0, 0] for t in _TIME_S]), "has missing values"),
        (table(_HEADER, np.zeros((600, 7))), "is sampled at"),
    ],
)
def test_a_broken_csv_is_named_and_skipped_only_if_asked(tmp_path, content, complaint):
    files = terrain_files(runs=2) | {"borealtc/ICE/imu_01.csv": content}
    folder = write_folder(tmp_path, files)
    with pytest.raises(DataError, match=f"borealtc/ICE/imu_01.csv {complaint}.*--skip-broken"):
        terrain.load(BorealTCOptions(), folder)
    assert len(terrain.load(BorealTCOptions(), folder, skips_broken=True).group_names) == 9


def test_a_run_without_its_imu_file_is_left_out(tmp_path):
    files = terrain_files(runs=2)
    del files["borealtc/ICE/imu_01.csv"]
    assert len(terrain.load(BorealTCOptions(), write_folder(tmp_path, files)).group_names) == 9


def photos(layout):
    """100 classes of one grey photo each, in one of the two layouts of mini-ImageNet."""
    files, lists, number = {}, {"train": [], "val": [], "test": []}, 0
    for part, count in (("train", 64), ("val", 16), ("test", 20)):
        for _ in range(count):
            name, label = f"n{number:08}_1.png", f"n{number:08}"
            folder = "images" if layout == "lists" else f"{part}/{label}"
            files[f"{folder}/{name}"] = png(np.full((20, 20), number % 2 == 0))
            lists[part].append(f"{name},{label}")
            number += 1
    if layout == "lists":
        files |= {f"{part}.csv": "\n".join(["filename,label", *lines]).encode() for part, lines in lists.items()}
    return files


@pytest.mark.parametrize("layout", ["lists", "folders"])
def test_mini_imagenet_is_read_in_both_layouts(tmp_path, layout):
    data = mini_imagenet.load(MiniImageNetOptions(image_size=16), write_folder(tmp_path, photos(layout)))
    assert data.x.shape == (100, 3, 16, 16)
    parts = classes_of(data, "train", "validation", "test")
    assert [len(part) for part in parts] == [64, 16, 20] and len(set.union(*parts)) == 100


def test_mini_imagenet_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="ImageNet's licence and cannot be downloaded"):
        open_data("mini-imagenet")
    files = photos("lists")
    del files["images/n00000003_1.png"]
    with pytest.raises(DataError, match=r"n00000003_1\.png of train\.csv is missing"):
        mini_imagenet.load(MiniImageNetOptions(), write_folder(tmp_path / "lists", files))
    files = photos("folders")
    del files["train/n00000003/n00000003_1.png"]
    with pytest.raises(DataError, match="has 63 classes for train, expected 64"):
        mini_imagenet.load(MiniImageNetOptions(), write_folder(tmp_path / "folders", files))


def test_an_object_looks_alike_from_all_sides_and_unlike_others():
    data = objects.load(ObjectsOptions(num_objects=20, num_views=4, image_size=16))
    assert data.x.shape == (80, 3, 16, 16) and data.x.dtype == torch.uint8
    assert [len(part) for part in classes_of(data, "train", "validation", "test")] == [12, 3, 5]
    color = data.x.float().sub(data.x.float().mean(1, keepdim=True)).abs().mean((2, 3))  # (N, 3), how colourful
    of_object = color.unflatten(0, (20, 4))
    assert of_object.std(1).mean() < 0.7 * of_object.mean(1).std(0).mean()


def test_a_packed_file_gives_back_what_was_packed_and_is_made_anew_if_damaged(tmp_path):
    data, path = packed(quarter_turns=(0, 1)), tmp_path / "numbers.safetensors"
    save_pack(path, data)
    again = load_pack(path)
    assert torch.equal(again.x, data.x) and torch.equal(again.group_ids, data.group_ids)
    assert again.class_names == data.class_names and again.split("train").quarter_turns == (0, 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="is damaged"):
        load_pack(path)


def test_the_cache_is_used_again_until_what_it_depends_on_changes():
    made = []

    def make() -> PackedData:
        made.append(1)
        return replace(packed(), name=f"version {len(made)}")

    assert [cached("numbers", {"size": size}, make).name for size in (1, 1, 2)] == [
        "version 1",
        "version 1",
        "version 2",
    ]


class _Home(http.server.BaseHTTPRequestHandler):
    """Serves /whole, and /short, which ends before what it announced."""

    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "11" if self.path == "/whole" else "5000")
        self.end_headers()
        self.wfile.write(b"hello world")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def home():
    server = http.server.HTTPServer(("127.0.0.1", 0), _Home)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_with_the_right_checksum_is_kept_and_not_fetched_again(home, tmp_path):
    remote = Remote("data.zip", f"{home}/whole", "md5:5eb63bbbe01eeed093cb22bb8f5acdc3")
    path = download(remote, tmp_path, "omniglot")
    assert path.read_bytes() == b"hello world"
    assert download(replace(remote, url=f"{home}/missing"), tmp_path, "omniglot") == path


@pytest.mark.parametrize(
    ("path", "digest", "complaint"),
    [
        ("/whole", "md5:00000000000000000000000000000000", "has md5 5eb63bbbe01eeed093cb22bb8f5acdc3, expected 0000"),
        ("/whole", "content:00", "is no whole zip archive, and is not kept"),
        ("/short", "md5:00", "broke off after 11 of 5000 bytes"),
        ("/missing", "md5:00", "cannot download .*/missing: .*404|Not Found"),
    ],
)
def test_a_download_that_fails_keeps_nothing_and_says_what_to_do(home, tmp_path, path, digest, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        download(Remote("data.zip", home + path, digest), tmp_path, "omniglot")
    assert "--data-dir" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"omniglot: cannot download http://127.0.0.1:1/x: .*refused.* --data-dir"):
        download(Remote("data.zip", "http://127.0.0.1:1/x", "md5:00"), tmp_path, "omniglot")


def test_the_content_of_an_archive_is_known_wherever_it_lies_in_it(tmp_path):
    for number, folder in enumerate(("", "repository-1.2/data/")):
        with zipfile.ZipFile(
            tmp_path / f"{number}.zip", "w", zipfile.ZIP_DEFLATED if number else zipfile.ZIP_STORED
        ) as z:
            for name in ("b.wav", "a.wav") if number else ("a.wav", "b.wav"):
                z.writestr(f"{folder}{name}", name * 10)
            z.writestr(f"{folder}readme.md", f"{number}")
    first, second = (content_digest(tmp_path / f"{number}.zip", r"\w\.wav$") for number in range(2))
    assert first == second != content_digest(tmp_path / "1.zip", r"a\.wav$")


def test_the_copies_here_have_the_content_of_the_public_homes(real_data):
    for name, remote in (("terrain", terrain.REMOTES[0]), ("spoken_digits", spoken_digits.REMOTES[0])):
        assert f"content:{content_digest(real_data / name / remote.name, remote.members)}" == remote.digest


def test_the_whole_of_omniglot(real_data):
    data = omniglot.load(OmniglotOptions(), real_data)
    sizes = [len(part) for part in classes_of(data, "train", "validation", "test")]
    assert data.x.shape == (32_460, 1, 28, 28) and sizes == [1028, 172, 423] and len(data.group_names) == 50
    assert (data.class_ids.bincount() == 20).all()
    lake = omniglot.load(OmniglotOptions(split_by="lake"), real_data)
    assert [len(p) for p in classes_of(lake, "train+validation", "test")] == [964, 659]
    maml = omniglot.load(OmniglotOptions(split_by="maml"), real_data)
    assert [len(p) for p in classes_of(maml, "train", "validation", "test")] == [1100, 100, 423]


def test_the_released_list_of_the_vinyals_split_is_the_one_here(real_data):
    data = omniglot.load(OmniglotOptions(), real_data)
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        listed = (real_data / "omniglot" / "splits_vinyals" / f"{name}.txt").read_text().split()
        expected = {line.rpartition("/")[0] for line in listed}
        (ours,) = classes_of(data, split)
        assert {data.class_names[i].partition("/")[2] for i in ours} == expected


def test_the_official_runs_are_twenty_tasks_that_pixels_solve_badly(real_data):
    runs = omniglot.official_runs(real_data)
    assert runs.support_x.shape == runs.query_x.shape == (20, 20, 1, 28, 28)
    assert (runs.query_y.sort(1).values == torch.arange(20)).all()
    distance = torch.cdist(runs.query_x.flatten(2), runs.support_x.flatten(2))
    error = float((distance.argmin(-1) != runs.query_y).float().mean())
    assert 0.5 < error < 0.9


def test_the_whole_of_spoken_digits_and_borealtc(real_data):
    digits = spoken_digits.load(SpokenDigitsOptions(), real_data)
    assert digits.x.shape == (3000, spoken_digits.NUM_MELS, spoken_digits.NUM_FRAMES) and len(digits.group_names) == 6
    surfaces = terrain.load(BorealTCOptions(), real_data)
    assert len(surfaces.group_names) == 68 and surfaces.x.shape[1:] == (10, 200)
    assert surfaces.x[:, 5].mean() == pytest.approx(9.8, abs=0.1)  # gravity
