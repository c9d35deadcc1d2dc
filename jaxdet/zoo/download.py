"""Published files by name, downloaded once, verified and kept.

`fetch("zoo://rpn_r50_fpn_1x")` returns a path below `cache_folder()/checkpoints`.  A file grows
as `<file>.part` and gets its name only once its SHA-256 begins as the name says, so that a
file under its name is whole.  What a cut connection left is continued.
"""

import contextlib
import hashlib
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.progress import DownloadColumn, TransferSpeedColumn

from jaxdet.console import Advance, progress
from jaxdet.errors import InputError
from jaxdet.files import cache_folder
from jaxdet.zoo.published import PRETRAINED, ROWS, ZOO_SITES

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 50  # connections to one site, each of which must bring something
_CHUNK = 1 << 18


class _SiteError(Exception):
    """A site does not give the file; the next one may."""


def fetch(name: str) -> Path:
    """Returns the published file of this name, downloading it at first use.

    Args:
        name: `zoo://<config>`, `torchvision://<backbone>` or `open-mmlab://<backbone>`.

    Returns:
        The verified file in the cache folder ($JAXDET_CACHE or ~/.cache/jaxdet).

    Raises:
        InputError: nothing of this name is published, or no site gives the right bytes; the
            message says which file to put where.
    """
    sites, path = _lookup(name)
    urls = [f"{site}/{path}" for site in sites]
    return download(urls, cache_folder() / "checkpoints" / Path(path).name)


def _lookup(name: str) -> tuple[Sequence[str], str]:
    rows = {f"zoo://{row.config}": row.path for row in ROWS}
    if name in PRETRAINED:
        return PRETRAINED[name]
    path = rows.get(name)
    if path:
        return ZOO_SITES, path
    if name in rows:
        raise InputError(f"{name}: no checkpoint of this config was published; train it instead")
    scheme = name.partition("://")[0] + "://"
    known = [n for n in (*(n for n, p in rows.items() if p), *PRETRAINED) if n.startswith(scheme)]
    hint = f"known are {', '.join(known)}" if known else "use zoo://, torchvision://, open-mmlab://"
    raise InputError(f"{name}: nothing of this name is published; {hint}")


def download(urls: Sequence[str], target: Path) -> Path:
    """Brings a file here unless it is here already.

    Args:
        urls: of the same file, tried in this order.
        target: ends in `-<hex digits>.<suffix>`, the beginning of the file's SHA-256.

    Returns:
        `target`, verified.

    Raises:
        InputError: no URL gives the right bytes, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target.parent):
            if target.exists() and _is_right(target):
                return target
            problems = []
            if target.exists():
                target.unlink()
                problems.append("the file that was there had wrong bytes and was removed")
            for url in urls:
                try:
                    _download_from(url, target.with_name(f"{target.name}.part"), target)
                    return target
                except _SiteError as error:
                    problems.append(f"{urllib.parse.urlsplit(url).netloc}: {error}")
    except OSError as error:
        where = error.filename or target.parent
        raise InputError(
            f"{where}: cannot be written: {error.strerror or error}; set JAXDET_CACHE to a folder "
            "that can"
        ) from error
    raise InputError(
        f"{target.name}: cannot be downloaded ({'; '.join(problems)}); "
        f"download {urls[0]} elsewhere and put it at {target}"
    )


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Makes processes that share the folder wait for each other."""
    try:
        import fcntl
    except ImportError:  # Windows: parallel downloads of one file are the user's own risk
        yield
        return
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download_from(url: str, part: Path, target: Path) -> None:
    """Completes `part` and renames it, going on after cuts as long as bytes arrive."""
    resumed = part.exists()
    columns = DownloadColumn(), TransferSpeedColumn()
    with progress(target.name, f"downloading {target.name}", *columns) as advance:
        for _ in range(ATTEMPTS):
            before = part.stat().st_size if part.exists() else 0
            if _transfer(url, part, before, advance):
                if _is_right(part, target):
                    part.replace(target)
                    return
                part.unlink()
                if not resumed:
                    raise _SiteError("wrong bytes: their SHA-256 is not the one in the name")
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
        raise _SiteError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise _SiteError(" ".join(str(reason).split()) or type(error).__name__) from error
    with response:
        if response.status != 206:  # a server that ignores Range sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        return _append(response, part, have, have + int(length) if length else None, advance)


def _append(response: Any, part: Path, have: int, total: int | None, advance: Advance) -> bool:
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
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


def _is_right(path: Path, named: Path | None = None) -> bool:
    """Returns whether the file's SHA-256 begins with the hex digits at the end of its name."""
    digits = re.search(r"-([0-9a-f]{8,})\.\w+$", (named or path).name)
    if not digits:
        raise ValueError(f"{path.name} does not name its SHA-256")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(digits[1])
