"""Published files by name, downloaded once, verified and kept.

A file grows as `<file>.part` and gets its name only once its hash begins as the name says, so that
a file under its name is whole.  What a cut connection left is continued.
"""

import contextlib
import fcntl
import hashlib
import http.client
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rich.progress import DownloadColumn, TransferSpeedColumn

from jaxdet.console import Advance, progress
from jaxdet.errors import InputError
from jaxdet.files import CACHE_ADVICE, cache_folder, reported
from jaxdet.weights import torch_file
from jaxdet.zoo.published import PRETRAINED, PUBLISHED, Row

_LOG = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 50  # connections to one site, each of which must bring something
_CHUNK = 1 << 18
_ALIKE = ("detector", "backbone", "style", "schedule")


class _SiteError(Exception):
    """A site does not give the file; the next one may."""


def fetch(name: str) -> Path:
    """Returns a published file, downloading it at first use.

    Its name is `zoo://<config>`, `zoo://<system>/<model>` or a key of `PRETRAINED`.  Raises
    `InputError` if nothing of this name is published, or no site gives the right bytes; the message
    says which file to put where.
    """
    rows = {row.zoo_name: row for row in PUBLISHED}
    published = {zoo_name: row.urls for zoo_name, row in rows.items() if row.file}
    for backbone, (sites, file) in PRETRAINED.items():
        published[backbone] = [f"{site}/{file}" for site in sites]
    advice = _advice(rows[name]) if name in rows else ""
    if name not in published:
        start = name.rpartition("/")[0]
        known = [x for x in published if x.rpartition("/")[0] == start] or published
        raise InputError(
            f"{name}: nothing of this name is published; known are {', '.join(known)}{advice}"
        )
    urls = published[name]
    return download(urls, cache_folder() / "checkpoints" / urls[0].rpartition("/")[2], advice)


def _advice(row: Row) -> str:
    """Returns which file can be had in place of one of 2018, whose sites may be gone."""
    for other in PUBLISHED:
        alike = all(getattr(other, x) == getattr(row, x) for x in _ALIKE)
        if alike and (row.system, other.system) == ("", "mmdet2"):
            return f"; or take {other.zoo_name} with --config={other.config}, its like of mmdet 2"
    return ""


def download(urls: Sequence[str], target: Path, advice: str = "") -> Path:
    """Returns `target`, verified, which is brought here unless it is here already.

    It ends in `-<hex digits>.pth`, the beginning of the file's SHA-256, or in `_<hex digits>.pkl`,
    that of its MD5; a backbone `R-<depth>.pkl` has none.  URLs are tried in order.  Where none
    gives the right bytes, the line of the `InputError` ends with `advice`.
    """
    problems = []
    with reported(target.parent, "written", CACHE_ADVICE):
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # processes that share the folder wait
            if target.exists():
                if _is_right(target, target):
                    return target
                target.unlink()
                problems.append("the file that was there had wrong bytes and was removed")
            for url in urls:
                try:
                    return _download_from(url, target)
                except _SiteError as error:
                    problems.append(f"{url}: {error}")
    raise InputError(
        f"{target.name}: cannot be downloaded ({'; '.join(problems)}); "
        f"download {urls[0]} elsewhere and put it at {target}{advice}"
    )


def _download_from(url: str, target: Path) -> Path:
    """Completes the `.part` and renames it, going on after cuts as long as bytes arrive."""
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    columns = DownloadColumn(), TransferSpeedColumn()
    with progress(target.name, f"downloading {target.name}", *columns) as advance:
        for _ in range(ATTEMPTS):
            before = part.stat().st_size if part.exists() else 0
            if _transfer(url, part, before, advance):
                if _is_right(part, target):
                    return part.replace(target)
                part.unlink()
                if not resumed:
                    raise _SiteError("wrong bytes: their hash is not the one in the name")
                resumed = False  # perhaps only what lay here was wrong: once more, from the start
            elif part.stat().st_size <= before:
                break
    raise _SiteError("the connection is cut again and again")


def _transfer(url: str, part: Path, have: int, advance: Advance) -> bool:
    """Appends what one connection gives; True when the file's end was reached."""
    request = urllib.request.Request(url, headers={"User-Agent": "jaxdet"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing lies beyond what is here: it is whole, or too long
            return True
        raise _SiteError(str(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _SiteError(str(error)) from error
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        have = file.tell()  # 0 where a server ignores Range and sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException):  # cut: what came before is kept
                return False
            file.write(chunk)
            have += len(chunk)
            advance(have, total)
            if not chunk:
                return total is None or have >= total


def _is_right(path: Path, named: Path) -> bool:
    """Returns whether a file's hash begins with the hex digits at the end of a name.

    A name without them is a Detectron backbone's, of which its first blob must be there.
    """
    digits = re.search(r"[-_]([0-9a-f]{6,})\.\w+$", named.name)
    if digits is None:
        _LOG.warning("%s: no hash of it is published; only its form is checked", named)
        with contextlib.suppress(InputError, AttributeError, TypeError):
            blobs = torch_file.read(path)
            return "conv1_w" in blobs.get("blobs", blobs)
        return False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5" if named.suffix == ".pkl" else "sha256")
    return digest.hexdigest().startswith(digits[1])
