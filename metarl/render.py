"""Draw frames of a MuJoCo model on a machine without a display, with whatever the machine has.

Which renderer is decided at the first frame, never at import: training does not need one, and with
`MUJOCO_GL=egl` but no libEGL even `import mujoco` fails. In order:

    1. what the user asked for in `MUJOCO_GL`,
    2. `egl` (Linux; fastest where there is a GPU driver or Mesa),
    3. `osmesa` (Linux; Mesa's software renderer),
    4. `glfw` where there is a display; MuJoCo's default on macOS and Windows,
    5. `warp`: mujoco_warp's ray tracer on the CPU, which comes with pip and needs no system library.

1 to 4 are tried in a subprocess first: a failed OpenGL context can abort the whole process, and after one
failure a second try in the same process does. The verdict is kept in the user's cache folder until
MuJoCo, the OpenGL libraries or the settings that matter change.

The ray tracer draws geoms, not sites, and no reflections: mark goals with geoms.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import hashlib
import json
import logging
import os
import subprocess
import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from metarl.errors import RenderError, UnknownNameError

if TYPE_CHECKING:
    import mujoco

BACKENDS = ("auto", "egl", "osmesa", "glfw", "warp")
"""What `--render-backend` takes."""

_GL_MODULES = {
    "egl": "mujoco.egl",
    "osmesa": "mujoco.osmesa",
    "glfw": "mujoco.glfw",
    "default": "mujoco.gl_context",  # MuJoCo's own choice, on macOS and Windows
}
_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
_GL_OFF = ("disable", "disabled", "off", "false", "0")
_PROBE_TIMEOUT_S = 60.0
_SHADOW_MAP_SIZE = 2048  # the default, 4096, is nearly the whole cost in software OpenGL; 1024 speckles the floor
_MULTISAMPLES = 4
_NEAR_M = 0.05
_SHADOW_RANGE_M = 10.0
_DIRECTIONAL = 1  # mjtLightType
_SLICES = 64  # of a cylinder; the default of 28 shows its corners

_log = logging.getLogger(__name__)


class Probe(NamedTuple):
    """Whether a renderer works on this machine.

    Attributes:
        backend: one of `BACKENDS`, or "default" (MuJoCo's own choice).
        works: a frame was drawn.
        detail: why not, or what to expect.
    """

    backend: str
    works: bool
    detail: str


class Renderer:
    """Draws one model from one of its cameras.

    Args:
        model: what to draw; it is copied, not changed.
        width, height: size of a frame in pixels.
        backend: one of `BACKENDS`.
        camera: name of a camera of the model.

    Raises:
        UnknownNameError: no such backend or camera.
        RenderError: this machine cannot draw with this backend; the message says how to mend it.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int, *, backend: str = "auto", camera: str = "video"):
        import mujoco

        cameras = [model.camera(i).name for i in range(model.ncam)]
        if camera not in cameras:
            raise UnknownNameError("camera", camera, cameras)
        self.backend = choose_backend(backend)
        self._model = _prepare(model, width, height)
        self._camera_id = cameras.index(camera)
        self._data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, self._data)
        canvas = _WarpCanvas if self.backend == "warp" else _OpenGLCanvas
        self._canvas: _Canvas = canvas(self.backend, self._model, self._data, self._camera_id, width, height)

    def draw(
        self, qpos: np.ndarray, mocap_pos: np.ndarray | None = None, mocap_quat: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw one instant.

        Args:
            qpos: (nq,) joint positions.
            mocap_pos: (nmocap, 3) m; None keeps those of the last frame (at first: the model's).
            mocap_quat: (nmocap, 4), likewise.

        Returns:
            (height, width, 3) uint8, a new array.
        """
        import mujoco

        self._data.qpos[:] = qpos
        if mocap_pos is not None:
            self._data.mocap_pos[:] = mocap_pos
        if mocap_quat is not None:
            self._data.mocap_quat[:] = mocap_quat
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)  # tracking cameras and lights look at it
        mujoco.mj_camlight(self._model, self._data)
        mujoco.mj_tendon(self._model, self._data)
        _bring_suns_near(self._model, self._data, self._camera_id)
        return self._canvas.draw(self._data)

    def close(self) -> None:
        """Free the graphics memory; a closed renderer draws no more."""
        self._canvas.close()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepare(model: mujoco.MjModel, width: int, height: int) -> mujoco.MjModel:
    """A copy of the model whose settings make frames quick and clean."""
    model = copy.copy(model)
    vis, extent = model.vis, model.stat.extent
    vis.quality.shadowsize, vis.quality.offsamples, vis.quality.numslices = _SHADOW_MAP_SIZE, _MULTISAMPLES, _SLICES
    vis.global_.offwidth, vis.global_.offheight = width, height
    # Both scale with the scene's extent: a long road would cut away what is near and blur the shadows.
    vis.map.znear = min(vis.map.znear, _NEAR_M / extent)
    vis.map.shadowclip = min(vis.map.shadowclip, _SHADOW_RANGE_M / extent)
    return model


def _bring_suns_near(model: mujoco.MjModel, data: mujoco.MjData, camera_id: int) -> None:
    """Centre the shadows of directional lights where the camera looks; their position means nothing else."""
    eye, forwards = data.cam_xpos[camera_id], -data.cam_xmat[camera_id].reshape(3, 3)[:, 2]
    to_ground_m = eye[2] / -forwards[2] if forwards[2] < 0 < eye[2] else np.inf
    center = eye + forwards * min(to_ground_m, _SHADOW_RANGE_M / 2)
    suns = model.light_type == _DIRECTIONAL
    data.light_xpos[suns] = center - data.light_xdir[suns] * _SHADOW_RANGE_M / 2


def choose_backend(requested: str = "auto") -> str:
    """Decide how to draw on this machine.

    Args:
        requested: one of `BACKENDS`.

    Returns:
        A backend that works: what was requested, or for "auto" the first in the order of this module.

    Raises:
        UnknownNameError: no such backend.
        RenderError: it does not work here, with every reason and the fix.
    """
    if requested not in BACKENDS:
        raise UnknownNameError("render backend", requested, BACKENDS)
    candidates = _candidates() if requested == "auto" else (requested,)
    return _first_that_works(candidates, os.environ.get("PYOPENGL_PLATFORM", ""))


def probe(backend: str) -> Probe:
    """Try to draw a frame in a subprocess, or look up the verdict of the last time.

    The ray tracer is only looked for: it works wherever it is installed, and its first frame
    compiles kernels for several seconds.
    """
    if backend == "warp":
        if find_spec("mujoco_warp") is None:
            return Probe("warp", False, "mujoco_warp is not installed")
        return Probe("warp", True, f"ray tracer of mujoco_warp {version('mujoco-warp')}, on the CPU")
    if backend in _LIBRARIES and sys.platform != "linux":
        return Probe(backend, False, "only on Linux")
    if backend == "glfw" and not _has_display():
        return Probe("glfw", False, "no display")
    key = _machine_key()
    verdicts = _read_verdicts()
    known = verdicts.get(backend)
    if isinstance(known, dict) and known.get("key") == key:
        return Probe(backend, bool(known.get("works")), str(known.get("detail")))
    result = _draw_in_subprocess(backend)
    if result is None:  # A busy machine is no verdict.
        return Probe(backend, False, f"no frame within {_PROBE_TIMEOUT_S:.0f} s")
    _write_verdicts({**verdicts, backend: {"key": key, "works": result.works, "detail": result.detail}})
    return result


def import_mujoco() -> None:
    """Import mujoco with `MUJOCO_GL` out of its sight.

    With `MUJOCO_GL=egl` or `osmesa` and no such library, `import mujoco` fails. Nothing is lost by hiding
    it: `choose_backend` reads it at the first frame.
    """
    asked = os.environ.pop("MUJOCO_GL", None)
    try:
        import_module("mujoco")
    finally:
        if asked is not None:
            os.environ["MUJOCO_GL"] = asked


@lru_cache
def _first_that_works(candidates: tuple[str, ...], opengl_platform: str) -> str:
    tried = []
    for backend in candidates:
        # PyOpenGL binds to one platform per process, for good.
        if backend in _LIBRARIES and opengl_platform.lower() not in ("", backend):
            tried.append(
                f"{backend} (this process is bound to {opengl_platform}: unset MUJOCO_GL and PYOPENGL_PLATFORM)"
            )
            continue
        result = probe(backend)
        if not result.works:
            tried.append(f"{backend} ({result.detail})")
            continue
        if backend == "warp" and tried:
            _log.warning(
                "drawing with mujoco_warp's ray tracer, whose first frame takes some seconds; does not work here: %s",
                ", ".join(tried),
            )
        return backend
    raise RenderError(
        f"MuJoCo cannot draw offscreen here. Tried: {', '.join(tried)}. Training and evaluation do not need this, "
        "only videos do. Fix: 'apt-get install -y libosmesa6' and try again, or use the render backend 'warp', "
        "which needs nothing but 'pip install mujoco-warp'. More: 'metarl doctor'."
    )


def _candidates() -> tuple[str, ...]:
    """The backends that "auto" tries, in order."""
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    if asked in _GL_OFF:
        return ("warp",)
    if sys.platform != "linux":
        return ("default", "warp")
    order = ["egl", "osmesa"]
    if _has_display():
        order.append("glfw")
    asked = {"glx": "glfw"}.get(asked, asked)
    if asked in ("egl", "osmesa", "glfw"):
        order = [asked, *(b for b in order if b != asked)]
    return (*order, "warp")


def _has_display() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _draw_in_subprocess(backend: str) -> Probe | None:
    """Draw one frame in a fresh process; None if that took too long."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    package_root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, environment.get("PYTHONPATH")]))
    code = "import sys; from metarl.render import _probe_main; _probe_main(sys.argv[1])"
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", code, backend],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return None
    answer = [line[len(_ANSWER) :] for line in child.stdout.splitlines() if line.startswith(_ANSWER)]
    if child.returncode == 0 and answer:
        return Probe(backend, True, answer[-1])
    if child.returncode < 0:
        return Probe(backend, False, f"OpenGL killed the process with signal {-child.returncode}")
    errors = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    return Probe(backend, False, answer[-1] if answer else (errors[-1:] or ["no reason given"])[0])


_ANSWER = "metarl-render-probe: "
_PROBE_MODEL = """<mujoco><worldbody><light pos="0 0 3"/><camera name="video" pos="0 0 3"/>
<geom type="sphere" size=".5" rgba="1 0 0 1"/></worldbody></mujoco>"""


def _probe_main(backend: str) -> None:
    """Draw one frame and say how it went; the body of the subprocess."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(_PROBE_MODEL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    try:
        canvas = _OpenGLCanvas(backend, model, data, 0, 64, 48)
        frame = canvas.draw(data)
        answer = f"OpenGL renderer {canvas.name()}"
        canvas.close()
    # PyOpenGL and the drivers raise whatever they like; each is a verdict, not an error.
    except Exception as error:
        sys.stdout.write(f"{_ANSWER}{_missing_library(backend) or error or type(error).__name__}\n")
        sys.exit(1)
    if int(frame[24, 32, 0]) <= int(frame[0, 0, 0]):
        sys.stdout.write(f"{_ANSWER}it drew an empty picture\n")
        sys.exit(1)
    sys.stdout.write(f"{_ANSWER}{answer}\n")


def _missing_library(backend: str) -> str:
    name = _LIBRARIES.get(backend, "")
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return f"{name} not found" if "cannot open" in str(error) else str(error)
    return ""


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarl" / "render.json"


def _read_verdicts() -> dict[str, Any]:
    try:
        verdicts = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return verdicts if isinstance(verdicts, dict) else {}


def _write_verdicts(verdicts: dict[str, Any]) -> None:
    path = _cache_file()
    # The cache only saves a second: a home folder that is read-only or full is no reason to fail.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps(verdicts, indent=1))
        draft.replace(path)


def _machine_key() -> str:
    """A hash of all that a verdict depends on: versions, settings, and the OpenGL libraries' files."""
    settings = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES", "LIBGL_ALWAYS_SOFTWARE")
    parts = [sys.prefix, version("mujoco"), *(f"{name}={os.environ.get(name)}" for name in settings)]
    folders = {*os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep), f"{sys.prefix}/lib"} - {""}
    folders |= {"/lib", "/usr/lib", "/usr/lib64", "/usr/local/lib", *map(str, Path("/usr/lib").glob("*-linux-*"))}
    patterns = ("libEGL*", "libOSMesa*", "libGL*", "libOpenGL*", "dri/*swrast*", "libgallium*")
    files = {file for folder in folders for pattern in patterns for file in Path(folder).glob(pattern)}
    files |= {Path("/dev/dri"), Path("/proc/driver/nvidia/version"), *Path("/usr/share/glvnd/egl_vendor.d").glob("*")}
    for file in sorted(files):
        with contextlib.suppress(OSError):  # a dangling link is as good as absent
            state = file.stat()
            parts.append(f"{file} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Canvas(Protocol):
    def draw(self, data: mujoco.MjData) -> np.ndarray: ...

    def close(self) -> None: ...


class _OpenGLCanvas:
    """MuJoCo's own renderer in an OpenGL context of our choice.

    `mujoco.Renderer` takes the context that `MUJOCO_GL` named when mujoco was imported; this one is
    chosen later.
    """

    def __init__(
        self, backend: str, model: mujoco.MjModel, data: mujoco.MjData, camera_id: int, width: int, height: int
    ):
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0  # the ray tracer has no sites, so no picture shows them
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = camera_id
        self._scene = mujoco.MjvScene(model, maxgeom=max(1000, 4 * model.ngeom))
        try:
            self._gl = import_module(_GL_MODULES[backend]).GLContext(width, height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except (ImportError, AttributeError, RuntimeError, OSError, mujoco.FatalError) as error:
            raise RenderError(f"the render backend {backend!r} cannot draw in this process: {error}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def name(self) -> str:
        """The OpenGL driver's name for itself."""
        gl = import_module("OpenGL.GL") if "OpenGL" in sys.modules else None
        return gl.glGetString(gl.GL_RENDERER).decode() if gl else "unknown"

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        mujoco = self._mujoco
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        frame = np.empty((self._rect.height, self._rect.width, 3), dtype=np.uint8)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(frame, None, self._rect, self._context)
        return np.ascontiguousarray(frame[::-1])  # OpenGL counts rows from below

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()


class _WarpCanvas:
    """mujoco_warp's ray tracer on the CPU. MuJoCo computes the poses, so that only drawing has to be supported."""

    _POSES = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")

    def __init__(
        self, backend: str, model: mujoco.MjModel, data: mujoco.MjData, camera_id: int, width: int, height: int
    ):
        import mujoco_warp
        import warp as wp

        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)  # a line per kernel otherwise
        self._wp, self._renderer = wp, mujoco_warp
        with wp.ScopedDevice("cpu"):
            try:
                self._model = mujoco_warp.put_model(model)
            except NotImplementedError as error:
                raise RenderError(f"the render backend {backend!r} cannot draw this model: {error}") from error
            self._data = mujoco_warp.put_data(model, data)
            self._context = mujoco_warp.create_render_context(
                model,
                cam_res=(width, height),
                cam_active=[camera_id],
                render_rgb=True,
                render_depth=False,
                render_seg=False,
                use_shadows=True,
                render_skybox=True,
            )
            self._pixels = wp.zeros((1, height, width), dtype=wp.vec3)

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        with self._wp.ScopedDevice("cpu"):
            for name in self._POSES:
                target = getattr(self._data, name)
                target.assign(getattr(data, name).reshape(target.numpy().shape))
            self._renderer.refit_bvh(self._model, self._data, self._context)
            self._renderer.render(self._model, self._data, self._context)
            self._renderer.get_rgb(self._context, 0, self._pixels)
            # On the CPU `numpy()` is a view that the next frame overwrites; scaling copies it.
            return (self._pixels.numpy()[0].clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    def close(self) -> None:
        del self._context, self._pixels
