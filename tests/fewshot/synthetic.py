"""Small data sets in the layout of the real ones."""

import io
import wave
import zipfile

import numpy as np
import torch
from PIL import Image

from metarl.fewshot.data.pack import PackedData, Split

ALPHABETS = {
    "images_background": {"Greek": 6, "Latin": 5, "Hebrew": 6},
    "images_evaluation": {"Keble": 6, "Gurmukhi": 3},
}
"""Training, training, validation and test of the Vinyals split; Gurmukhi's first characters are training."""


def packed(num_classes=6, per_class=8, num_groups=4, quarter_turns=(0,), x_shape=(1, 4, 4)):
    """Sample i of class c has the value 100 c + i in its first element, and comes from group i % num_groups."""
    classes = torch.arange(num_classes).repeat_interleave(per_class)
    position = torch.arange(per_class).repeat(num_classes)
    x = torch.rand(len(classes), *x_shape, generator=torch.Generator().manual_seed(0))
    x.flatten(1)[:, 0] = 100.0 * classes + position
    return PackedData(
        name="numbers",
        x=x,
        class_ids=classes,
        group_ids=position % num_groups,
        class_names=tuple(f"class {c}" for c in range(num_classes)),
        group_names=tuple(f"group {g}" for g in range(num_groups)),
        splits={"train": Split(torch.arange(len(classes)), quarter_turns)},
    )


def png(rows):
    content = io.BytesIO()
    Image.fromarray(np.asarray(rows, dtype=bool)).save(content, "PNG")
    return content.getvalue()


def omniglot_files(drawings=7, size=20):
    """{relative name: bytes}: each character is a shape of its own, drawn with noise on white paper."""
    generator = np.random.default_rng(0)
    files = {}
    for origin, alphabets in ALPHABETS.items():
        for alphabet, num_characters in alphabets.items():
            for character in range(1, num_characters + 1):
                shape = generator.random((size, size)) < 0.25
                for drawing in range(1, drawings + 1):
                    ink = shape ^ (generator.random((size, size)) < 0.04)
                    name = f"{origin}/{alphabet}/character{character:02}/{character:04}_{drawing:02}.png"
                    files[name] = png(~ink)
    return files


def write_folder(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_omniglot_zips(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for origin in ALPHABETS:
        with zipfile.ZipFile(folder / f"{origin}.zip", "w") as archive:
            for name, content in files.items():
                if name.startswith(origin):
                    archive.writestr(name, content)
    return folder


def wav(sound, rate_hz=8000, channels=1):
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.asarray(sound) * 32767).astype("<i2").tobytes())
    return content.getvalue()


def tone(frequency_hz, seconds=0.3, rate_hz=8000):
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def digit_files(speakers=("ann", "bob", "cid", "dan", "eve", "fay"), takes=8):
    """Every digit is a tone of its own."""
    return {
        f"recordings/{digit}_{speaker}_{take}.wav": wav(tone(300 + 250 * digit + 10 * take))
        for digit in range(10)
        for speaker in speakers
        for take in range(takes)
    }


def table(columns, values):
    lines = [",".join(columns), *(",".join(f"{value:.6f}" for value in row) for row in values)]
    return ("\n".join(lines) + "\n").encode()


def imu(seconds=6.0, amplitude=1.0, rate_hz=100.0, seed=0):
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    values = amplitude * np.random.default_rng(seed).normal(size=(len(time_s), 6))
    return table(("time", "wx", "wy", "wz", "ax", "ay", "az"), np.column_stack([time_s, values]))


def wheels(seconds=6.0, rate_hz=6.5):
    time_s = np.arange(round(seconds * rate_hz) + 1) / rate_hz
    return table(("time", "curL", "curR", "velL", "velR"), np.column_stack([time_s] + [time_s + i for i in range(4)]))


def terrain_files(runs=6):
    """Surfaces shake the robot by different amounts."""
    files = {}
    for i, surface in enumerate(("ASPHALT", "FLOORING", "ICE", "SANDY_LOAM", "SNOW")):
        for run in range(runs):
            files[f"borealtc/{surface}/imu_{run:02}.csv"] = imu(amplitude=4.0**i, seed=10 * i + run)
            files[f"borealtc/{surface}/pro_{run:02}.csv"] = wheels()
    return files
