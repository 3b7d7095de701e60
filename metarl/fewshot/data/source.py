"""Where the files of a data set come from: a local copy, or the public home, checked and whole or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metarl.errors import DataError, closest
from metarl.files import reason

DATA_VARIABLE = "METARL_DATA"
"""Environment variable that names a folder of local copies, as `--data-dir` does."""

CACHE_VARIABLE = "METARL_CACHE"
"""Environment variable that names the folder for downloads and packed files."""

_TIMEOUT_S = 30.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file at its public home.

    Attributes:
        name: what it is called here, with folders.
        url: where it is.
        digest: what it must have: "md5:..." or "sha256:..." of its bytes; or "content:..." of what is packed in it
            (`content_digest`), where its home packs it anew now and then.
        members: regular expression of the files that this content is; the part of a name that it finds counts.
    """

    name: str
    url: str
    digest: str
    members: str = ""


@dataclass(frozen=True)
class Files:
    """The files of a data set by relative name, in a folder or in zip archives.

    Attributes:
        origin: for messages: where they are.
        names: relative names, sorted.
        fingerprint: changes when the files do; of names, sizes and times of change.
        read: relative name -> bytes; raises DataError.
    """

    origin: Path
    names: tuple[str, ...]
    fingerprint: str
    read: Callable[[str], bytes]


def cache_folder() -> Path:
    """Where downloads and packed files are kept: $METARL_CACHE, or metarl/ in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metarl"


def locate(name: str, folder: str, data_dir: Path | None, remotes: Iterable[Remote]) -> Path:
    """The folder with a data set's raw files, downloaded where nobody named one.

    Args:
        name: of the data set, for messages.
        folder: what its folder is called in a folder of several data sets.
        data_dir: that of the data set, or one that holds `folder`; None: $METARL_DATA where set, else download.
        remotes: what to download.

    Raises:
        DataError: no such folder, or a download that failed.
    """
    if data_dir is None and os.environ.get(DATA_VARIABLE):
        data_dir = Path(os.environ[DATA_VARIABLE])
    if data_dir is not None:
        if not data_dir.is_dir():
            parent = data_dir.absolute().parent
            near = closest(data_dir.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else ""
            raise DataError(f"{name}: no such data folder {data_dir}.{near} Name it with --data-dir.")
        return data_dir / folder if (data_dir / folder).is_dir() else data_dir
    target = cache_folder() / "raw" / folder
    for remote in remotes:
        download(remote, target, name)
    return target


def download(remote: Remote, folder: Path, data_set: str) -> Path:
    """Fetch a file once; under its name there is the whole, checked file or nothing.

    Args:
        remote: what to fetch.
        folder: where it goes.
        data_set: for messages.

    Raises:
        DataError: it cannot be had or written, or its checksum is wrong.
    """
    path = folder / remote.name
    if path.is_file():
        return path
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    advice = f"Fetch it by other means, and name the folder it is in with --data-dir (or ${DATA_VARIABLE})."
    algorithm, _, expected = remote.digest.partition(":")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256() if algorithm == "content" else hashlib.new(algorithm)
        with urllib.request.urlopen(remote.url, timeout=_TIMEOUT_S) as answer, temporary.open("wb") as file:
            announced = answer.headers.get("Content-Length")
            size = 0
            while block := answer.read(_CHUNK):
                file.write(block)
                digest.update(block)
                size += len(block)
            if announced is not None and size != int(announced):
                raise DataError(f"{data_set}: {remote.url} broke off after {size} of {announced} bytes. {advice}")
            file.flush()
            os.fsync(file.fileno())
        found = content_digest(temporary, remote.members) if algorithm == "content" else digest.hexdigest()
        if found != expected:
            raise DataError(
                f"{data_set}: {remote.url} has {algorithm} {found}, expected {expected}: "
                f"it was changed or damaged on the way, and is not kept. {advice}"
            )
        os.replace(temporary, path)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{data_set}: {remote.url} is no whole zip archive, and is not kept. {advice}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        cause = getattr(error, "reason", None) or error
        raise DataError(f"{data_set}: cannot download {remote.url}: {cause}. {advice}") from error
    except OSError as error:
        raise DataError(f"{data_set}: cannot write {path}: {reason(error, cache_folder().parent)}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def open_files(
    data_set: str, folder: Path, suffixes: tuple[str, ...], archives: Iterable[str], pattern: str = ""
) -> Files:
    """The files with some suffixes in a folder, or else in the zip archives that lie in it.

    Args:
        data_set: for messages.
        folder: where to look, at any depth; hidden files are left out.
        suffixes: such as (".png",).
        archives: zip files to look into where the folder holds no such file itself.
        pattern: regular expression that is found in the relative names of all files that count.

    Raises:
        DataError: there are none, or an archive is damaged.
    """
    found = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes
        and re.search(pattern, path.relative_to(folder).as_posix())
        and path.is_file()
        and not path.name.startswith(".")
    }
    if found:

        def read(name: str) -> bytes:
            return found[name].read_bytes()

        return Files(folder, tuple(found), _fingerprint(folder, found.values()), read)
    wanted = list(archives)
    present = [folder / archive for archive in wanted if (folder / archive).is_file()]
    if len(present) < len(wanted):
        missing = ", ".join(a for a in wanted if folder / a not in present)
        kinds = " or ".join(f"*{suffix}" for suffix in suffixes)
        raise DataError(f"{data_set}: {folder} holds neither {kinds} nor {missing}. Name the right --data-dir.")
    return _open_archives(data_set, folder, suffixes, present, pattern)


def content_digest(path: Path, members: str) -> str:
    """SHA-256 over names and contents of files in a zip archive: the same however and wherever in it they are packed.

    Args:
        path: of the archive.
        members: regular expression of the names that count, and of the part of them that does.

    Raises:
        zipfile.BadZipFile: it is none, or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        named = {match[0]: name for name in archive.namelist() if (match := re.search(members, name))}
        lines = (f"{part}\0{hashlib.sha256(archive.read(named[part])).hexdigest()}\n" for part in sorted(named))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _open_archives(data_set: str, folder: Path, suffixes: tuple[str, ...], paths: list[Path], pattern: str) -> Files:
    members: dict[str, tuple[zipfile.ZipFile, str]] = {}
    for path in paths:
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{data_set}: {path} is no whole zip archive ({error}). Delete it and try again."
            ) from error
        for name in archive.namelist():
            if Path(name).suffix.lower() in suffixes and re.search(pattern, name):
                members[name] = (archive, name)

    def read(name: str) -> bytes:
        archive, member = members[name]
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, OSError, zlib.error) as error:
            raise DataError(f"{data_set}: {name} in {archive.filename} is damaged ({error}).") from error

    if not members:
        listed = ", ".join(path.name for path in paths)
        raise DataError(f"{data_set}: {listed} in {folder} holds no file of this data set. Name the right --data-dir.")
    return Files(folder, tuple(sorted(members)), _fingerprint(folder, paths), read)


def _fingerprint(folder: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
