"""What a wheel, a source distribution and an editable install hold, and that they run elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import jaxdet

ROOT = Path(__file__).parents[1]


def run(*arguments, path="", cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, list[Path]]:
    """A clone in a folder named jaxdet; the wheel, the archive and the editable wheel of it."""
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "jaxdet"
    clone.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("jaxdet", "configs", "converters", "benchmarks", "docs", "tests", ".ci"):
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=ignored)
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, clone)
    shutil.copy(ROOT / "LICENSE", clone)
    files = []
    for kind in ("wheel", "sdist", "editable"):
        (folder / kind).mkdir()
        build = f"from setuptools.build_meta import build_{kind} as build; build('../{kind}')"
        result = run("-c", build, cwd=clone)
        assert result.returncode == 0, result.stderr
        files += (folder / kind).iterdir()
    return clone, files


def sources(*folders: str) -> set[Path]:
    """Files to expect, relative to the root."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.*"))
    return {path.relative_to(ROOT) for path in found if path.suffix != ".pyc"}


def test_the_wheel_installs_jaxdet_alone_and_runs_anywhere(built, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(built[1][0]) as archive:
        archive.extractall(site)
    metadata = f"jaxdet-{jaxdet.__version__}.dist-info"
    assert sorted(path.name for path in site.iterdir()) == ["jaxdet", metadata]
    installed = {path.relative_to(site) for path in (site / "jaxdet").rglob("*.*")}
    assert installed == sources("jaxdet", "jaxdet/configs")
    scripts = (site / metadata / "entry_points.txt").read_text()
    assert "jaxdet = jaxdet.console:jaxdet_command" in scripts

    script = "from jaxdet.console import jaxdet_command; jaxdet_command()"
    arguments = ("--config=rpn_r50_c4_1x", "--config.train.num_epochs=0")
    for start in (("-c", script), ("-m", "jaxdet.main")):
        result = run(*start, *arguments, path=site, cwd=tmp_path)
        line = "jaxdet: config.train.num_epochs: must be positive, not 0\n"
        assert (result.stderr, result.returncode) == (line, 2)
        result = run(*start, "--version", path=site, cwd=tmp_path)
        assert (result.stdout, result.returncode) == (f"jaxdet {jaxdet.__version__}\n", 0)


def test_the_source_distribution_holds_its_tests_and_what_they_need(built):
    with tarfile.open(built[1][1]) as archive:
        names = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    folders = ("jaxdet", "jaxdet/configs", "configs", "converters", "benchmarks", "docs", "tests")
    assert sources(*folders) <= names
    assert {Path("constraints.txt"), Path("README.md"), Path(".ci/run")} <= names


def test_a_folder_named_jaxdet_does_not_hide_an_editable_install(built, tmp_path):
    """In the folder that holds a clone, `import jaxdet` must find the package, not the clone."""
    clone, (*_, wheel) = built
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    find = "from importlib.util import find_spec; print(find_spec('jaxdet').origin)"
    code = f"import site; site.addsitedir({str(tmp_path)!r}); {find}"
    # -S leaves out the packages of this Python, where another clone may be installed.
    result = run("-S", "-c", code, cwd=clone.parent)
    assert result.stdout.strip() == str(clone / "jaxdet" / "__init__.py"), result.stderr
