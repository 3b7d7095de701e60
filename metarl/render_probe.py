"""Find out how this machine can draw: a subprocess tries, and the verdict is kept.

The order, and why a subprocess, is told in `metarl.render`.
"""

from __future__ import annotations

import contextlib
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
from typing import Any, NamedTuple

from metarl.canvas import OpenGLCanvas
from metarl.errors import RenderError, UnknownNameError

BACKENDS = ("auto", "egl", "osmesa", "glfw", "warp")
"""What `--render-backend` takes."""

_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
_GL_OFF = ("disable", "disabled", "off", "false", "0")
_PROBE_TIMEOUT_S = 60.0

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
    code = "import sys; from metarl.render_probe import draw_probe; draw_probe(sys.argv[1])"
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


def draw_probe(backend: str) -> None:
    """Draw one frame and say how it went; the body of the subprocess."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(_PROBE_MODEL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    try:
        canvas = OpenGLCanvas(backend, model, data, 0, 64, 48)
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
