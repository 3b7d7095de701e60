"""Data sets for the few-shot tests: small ones that are always there, real ones where $METARL_DATA names them."""

import os
from pathlib import Path

import pytest

from tests.fewshot.synthetic import digit_files, omniglot_files, terrain_files, write_folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A data folder with three small data sets in the layout of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder / "omniglot", omniglot_files())
    write_folder(folder / "spoken_digits", digit_files())
    write_folder(folder / "terrain", terrain_files())
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of packed files that belongs to the test session, and no data folder but the one a test names."""
    monkeypatch.setenv("METARL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("METARL_DATA", raising=False)


_REAL = os.environ.get("METARL_DATA", "")


@pytest.fixture
def real_data(monkeypatch):
    """The folder of real data that the developer has, with the developer's own cache."""
    if not _REAL or not Path(_REAL).is_dir():
        pytest.skip("needs real data: set METARL_DATA to a folder with omniglot/, spoken_digits/ and terrain/")
    if cache := _CACHE:
        monkeypatch.setenv("METARL_CACHE", cache)
    return Path(_REAL)


_CACHE = os.environ.get("METARL_CACHE", "")
