"""Rendering: the same picture from every renderer, and a verdict about the machine that is right."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest

from metarl import render_probe
from metarl.errors import RenderError, UnknownNameError
from metarl.render import Renderer, choose_backend, probe

WIDTH, HEIGHT = 96, 64

SCENE = """<mujoco>
  <visual><headlight ambient=".5 .5 .5" diffuse=".5 .5 .5" specular="0 0 0"/></visual>
  <worldbody>
    <light type="directional" pos="0 0 3" dir=".3 .3 -1" diffuse=".5 .5 .5"/>
    <geom type="plane" size="0 0 .1" rgba=".6 .6 .6 1"/>
    <body name="ball" pos="0 0 .5">
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom type="sphere" size=".3" rgba="1 0 0 1"/>
      <camera name="video" mode="track" pos="0 -3 1.5" xyaxes="1 0 0 0 .5 .9"/>
    </body>
    <body name="goal" mocap="true" pos="0 0 -5"><geom type="box" size=".3 .3 .3" rgba="0 0 1 1"/></body>
    <camera name="fixed" pos="0 -4 1.5" xyaxes="1 0 0 0 .4 .9"/>
  </worldbody>
</mujoco>"""

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="egl and osmesa exist on Linux only")


@pytest.fixture
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(SCENE)


@pytest.fixture
def broken_opengl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose OpenGL libraries hold no OpenGL, and whose verdicts are not known yet."""
    libraries = tmp_path / "lib"
    libraries.mkdir()
    other_library = next(Path(mujoco.__file__).parent.glob("libmujoco.so*"))
    for name in ("libEGL.so", "libEGL.so.1", "libOSMesa.so", "libOSMesa.so.8"):
        (libraries / name).symlink_to(other_library)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    render_probe._first_that_works.cache_clear()
    yield libraries
    render_probe._first_that_works.cache_clear()


def reddest(frame: np.ndarray) -> np.ndarray:
    """Mean (column, row) of the pixels that are clearly red."""
    pixels = frame.astype(int)
    rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1:].max(-1) > 60)
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("backend", ["auto", "warp"])
def test_a_body_is_drawn_where_its_joints_put_it(model: mujoco.MjModel, backend: str) -> None:
    with Renderer(model, WIDTH, HEIGHT, backend=backend, camera="fixed") as renderer:
        left = renderer.draw(np.array([-1.0]))
        right = renderer.draw(np.array([1.0]))
    assert left.shape == (HEIGHT, WIDTH, 3) and left.dtype == np.uint8
    assert reddest(left)[0] < WIDTH * 0.35
    assert reddest(right)[0] > WIDTH * 0.65
    # The camera looks from the front, so that mirrored positions are mirrored columns.
    np.testing.assert_allclose(reddest(left)[0] + reddest(right)[0], WIDTH - 1, atol=1.5)


@pytest.mark.parametrize("backend", ["auto", "warp"])
def test_a_frame_is_not_overwritten_by_the_next(model: mujoco.MjModel, backend: str) -> None:
    with Renderer(model, WIDTH, HEIGHT, backend=backend, camera="fixed") as renderer:
        first = renderer.draw(np.array([-1.0]))
        kept = first.copy()
        second = renderer.draw(np.array([1.0]))
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_the_ray_tracer_draws_what_opengl_draws(model: mujoco.MjModel) -> None:
    if choose_backend("auto") == "warp":
        pytest.skip("no OpenGL here")
    frames = []
    for backend in ("auto", "warp"):
        with Renderer(model, WIDTH, HEIGHT, backend=backend, camera="fixed") as renderer:
            frames.append(renderer.draw(np.array([0.4])).astype(int))
    np.testing.assert_allclose(reddest(frames[0]), reddest(frames[1]), atol=1.0)
    # Shadows have other depths and edges another smoothing; the rest agrees.
    assert np.median(np.abs(frames[0] - frames[1])) < 12


def test_a_mocap_body_is_drawn_where_it_is_put(model: mujoco.MjModel) -> None:
    with Renderer(model, WIDTH, HEIGHT, camera="fixed") as renderer:
        hidden = renderer.draw(np.array([1.5]))
        shown = renderer.draw(np.array([1.5]), np.array([[-1.0, 0.0, 0.3]]), np.array([[1.0, 0.0, 0.0, 0.0]]))
    blue = [(f[..., 2].astype(int) - f[..., :2].max(-1) > 60).sum() for f in (hidden, shown)]
    assert blue[0] == 0 and blue[1] > 50


def test_a_tracked_body_far_from_the_origin_looks_as_it_does_near(model: mujoco.MjModel) -> None:
    with Renderer(model, WIDTH, HEIGHT) as renderer:
        near, far = renderer.draw(np.array([0.0])), renderer.draw(np.array([300.0]))
    shadow = near[HEIGHT // 2 :].astype(int)
    assert np.abs(near.astype(int) - far.astype(int)).mean() < 2.0
    assert shadow.max() - shadow.min() > 60, "the ground shows no shadow to compare"


def test_renderers_can_live_together_and_one_after_the_other(model: mujoco.MjModel) -> None:
    with Renderer(model, WIDTH, HEIGHT) as first, Renderer(model, 64, 64, camera="fixed") as second:
        one = first.draw(np.array([0.2]))
        assert second.draw(np.array([0.2])).shape == (64, 64, 3)
        np.testing.assert_array_equal(first.draw(np.array([0.2])), one)
    for _ in range(3):
        with Renderer(model, WIDTH, HEIGHT) as again:
            np.testing.assert_array_equal(again.draw(np.array([0.2])), one)


def test_drawing_leaves_the_model_as_it_was(model: mujoco.MjModel) -> None:
    before = (model.vis.quality.shadowsize, model.vis.global_.offwidth, model.vis.map.znear)
    with Renderer(model, WIDTH, HEIGHT) as renderer:
        renderer.draw(np.array([0.0]))
    assert (model.vis.quality.shadowsize, model.vis.global_.offwidth, model.vis.map.znear) == before


def test_an_unknown_camera_is_named_with_those_that_exist(model: mujoco.MjModel) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown camera 'fixd'\. Did you mean 'fixed'\? Available: fixed, video"
    ):
        Renderer(model, WIDTH, HEIGHT, camera="fixd")


def test_an_unknown_backend_is_named_with_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown render backend 'elg'\. Did you mean 'egl'"):
        choose_backend("elg")


@needs_linux
def test_without_opengl_the_ray_tracer_draws_and_one_line_says_why(
    broken_opengl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_backend("auto") == "warp"
    (line,) = [r.getMessage() for r in caplog.records if r.name == "metarl.render_probe"]
    assert "egl (" in line and "osmesa (" in line


@needs_linux
def test_a_backend_that_was_asked_for_and_fails_is_an_error_with_the_fix(broken_opengl: Path) -> None:
    with pytest.raises(RenderError, match=r"Tried: egl \(.*apt-get install -y libosmesa6.*'warp'"):
        choose_backend("egl")


@needs_linux
def test_mujoco_gl_is_respected_only_where_it_works(broken_opengl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert render_probe._candidates() == ("osmesa", "egl", "warp")
    assert choose_backend("auto") == "warp"
    monkeypatch.setenv("MUJOCO_GL", "off")
    assert render_probe._candidates() == ("warp",)


@needs_linux
def test_a_verdict_is_kept_until_a_library_changes(broken_opengl: Path, tmp_path: Path) -> None:
    assert not probe("egl").works
    file = tmp_path / "cache" / "metarl" / "render.json"
    verdicts = json.loads(file.read_text())
    verdicts["egl"]["detail"] = "remembered"
    file.write_text(json.dumps(verdicts))
    assert probe("egl").detail == "remembered"
    (broken_opengl / "libEGL.so.0").write_text("another version")
    assert probe("egl").detail != "remembered"


@needs_linux
@pytest.mark.parametrize("content", ["{", '{"egl": 3}'])
def test_a_damaged_cache_is_no_obstacle(broken_opengl: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "cache" / "metarl" / "render.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert not probe("egl").works


@needs_linux
def test_a_cache_folder_that_cannot_be_made_is_no_obstacle(
    broken_opengl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert not probe("egl").works


@needs_linux
def test_mujoco_can_be_imported_although_mujoco_gl_names_a_missing_library(broken_opengl: Path) -> None:
    code = "import os; from metarl.render import import_mujoco; import_mujoco(); import mujoco; "
    code += "assert os.environ['MUJOCO_GL'] == 'egl'; mujoco.MjModel.from_xml_string('<mujoco/>')"
    environment = {"LD_LIBRARY_PATH": str(broken_opengl), "MUJOCO_GL": "egl", "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_importing_the_renderer_decides_and_imports_nothing() -> None:
    code = "import sys, metarl.render; sys.exit('mujoco' in sys.modules or 'OpenGL' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
