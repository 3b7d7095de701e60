"""Panels and the files they are written to."""

import resource
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from metarl.errors import RenderError
from metarl.video import _DONE, _RUNNING, _SUCCESS, Mosaic, PanelState, VideoWriter, return_decimals, wrap, write_png

FRAME = np.full((60, 80, 3), 90, dtype=np.uint8)


def panel(*returns: float, is_success: bool = False) -> PanelState:
    return PanelState(FRAME, ("episode 1/2", "0.40 s", "return 1.0"), returns, is_success)


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((image == np.array(color)).all(-1).sum())


def rows(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.nonzero((image == np.array(color)).all(-1).any(1))[0]


def noise(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 3)])
def test_panels_are_laid_out_in_a_row_or_a_square(panels: int, columns: int) -> None:
    mosaic = Mosaic([["a"]] * panels, 80, 60)
    image = mosaic.draw([PanelState(FRAME, (), ())] * panels)
    assert image.shape == (mosaic.height, mosaic.width, 3)
    assert mosaic.width // 80 == columns
    assert count(image, (90, 90, 90)) == panels * 60 * 80


@pytest.mark.parametrize("width", [79, 80, 81])
def test_sizes_are_even_as_the_encoder_wants_them(width: int) -> None:
    mosaic = Mosaic([["a"], ["b"], ["c"]], width, 61, num_episodes=2, title="title")
    assert mosaic.width % 2 == 0 and mosaic.height % 2 == 0


def test_a_bar_is_as_high_as_its_return() -> None:
    mosaic = Mosaic([["a"]], 200, 60, num_episodes=3, return_range=(0.0, 4.0))
    frame = np.zeros((60, 200, 3), dtype=np.uint8)
    one, four = (mosaic.draw([PanelState(frame, (), (r, 0.0))]) for r in (1.0, 4.0))
    assert len(rows(four, _DONE)) / len(rows(one, _DONE)) == pytest.approx(4.0, rel=0.15)


def test_negative_returns_hang_from_the_zero_line() -> None:
    mosaic = Mosaic([["a"]], 200, 60, num_episodes=2, return_range=(-4.0, 4.0))
    frame = np.zeros((60, 200, 3), dtype=np.uint8)
    image = mosaic.draw([PanelState(frame, (), (4.0, -4.0))])
    up, down = rows(image, _DONE), rows(image, _RUNNING)
    assert up.max() <= down.min() + 1
    assert abs(len(up) - len(down)) <= 1


def test_success_frames_the_picture_in_green() -> None:
    mosaic = Mosaic([["a"]], 80, 60, num_episodes=2)
    assert count(mosaic.draw([panel(1.0)]), _SUCCESS) == 0
    assert count(mosaic.draw([panel(1.0, is_success=True)]), _SUCCESS) >= 4 * (2 * 80 + 2 * 52)


def test_drawing_twice_gives_the_same_picture() -> None:
    mosaic = Mosaic([["mass 3.2 kg"]], 80, 60, num_episodes=2)
    first = mosaic.draw([panel(1.0)])
    mosaic.draw([panel(0.2, 0.9, is_success=True)])
    np.testing.assert_array_equal(mosaic.draw([panel(1.0)]), first)


def test_headings_are_wrapped_between_items_only() -> None:
    assert wrap(["mass 1 kg", "grip 0.8"], 500, 13) == ["mass 1 kg   grip 0.8"]
    assert wrap(["mass 1 kg", "grip 0.8"], 80, 13) == ["mass 1 kg", "grip 0.8"]
    (line,) = wrap(["a very long name that has no room"], 80, 13)
    assert line.startswith("a very") and line.endswith("…")


def test_returns_are_shown_with_three_to_four_digits() -> None:
    assert [return_decimals(r) for r in [(0.0, 4.56), (-123.4, 0.0), (0.0, 5000.0)]] == [2, 1, 0]


def test_an_mp4_holds_the_frames_that_were_added(tmp_path: Path) -> None:
    frames = [np.full((48, 64, 3), 40 * i, dtype=np.uint8) for i in range(6)]
    with VideoWriter(tmp_path / "new" / "clip.mp4", Fraction(25, 2)) as writer:
        for frame in frames:
            writer.add(frame)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["clip.mp4"]
    with av.open(str(writer.path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height, stream.average_rate) == (64, 48, Fraction(25, 2))
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(decoded) == 6
    np.testing.assert_allclose([f.mean() for f in decoded], [f.mean() for f in frames], atol=4)


def test_an_mp4_can_be_played_before_it_is_loaded_whole(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", Fraction(25)) as writer:
        writer.add(noise(0))
    content = writer.path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_an_interrupted_video_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the old one")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, Fraction(25)) as writer:
        writer.add(noise(0))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
@pytest.mark.parametrize("is_encoder_missing", [False, True])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_encoder_missing: bool
) -> None:
    if is_encoder_missing:
        monkeypatch.setitem(sys.modules, "av", None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with (
            pytest.raises(RenderError, match=r"could not write .*clip"),
            VideoWriter(tmp_path / "clip.mp4", Fraction(25)) as writer,
        ):
            for i in range(40):
                writer.add(noise(i))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RenderError, match="could not write"):
        VideoWriter(tmp_path / "file" / "clip.mp4", Fraction(25)).__enter__()


def test_odd_sizes_are_refused_with_their_numbers(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="33 x 48"), VideoWriter(tmp_path / "clip.mp4", Fraction(25)) as writer:
        writer.add(noise(0, 48, 33))
    assert list(tmp_path.iterdir()) == []


def test_without_an_encoder_there_is_an_animated_webp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with VideoWriter(tmp_path / "clip.mp4", Fraction(20)) as writer:
        for i in range(4):
            writer.add(noise(i))
    assert writer.path == tmp_path / "clip.webp"
    assert "pip install av" in caplog.text
    with Image.open(writer.path) as image:
        assert (image.format, image.n_frames, image.size) == ("WEBP", 4, (160, 120))
        image.load()
        assert image.info["duration"] == 50


def test_a_png_holds_the_picture_exactly(tmp_path: Path) -> None:
    picture = noise(3)
    path = write_png(tmp_path / "new" / "picture.png", picture)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
