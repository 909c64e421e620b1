"""Installs a detectron2 that runs today, as a pure-Python wheel `detectron2 0.6+pure`.

detectron2 is not on PyPI under its own name. The sdist `pb1-detectron2 0.6` there holds the Python files of the v0.6 tag
unchanged, without the C++ sources, so `pip install` of it fails. This script fetches that file (its checksum is pinned),
repairs it (tools/detectron2_repairs.py), has pip pack a wheel and installs it. An installed detectron2 >= 0.6 is kept.

detectron2 is Apache-2.0, Copyright Facebook, Inc. and its affiliates; the wheel carries its licence.

    python tools/install_detectron2.py [--force] [--sdist FILE] [--wheel-dir DIR [--no-install]]
"""

import argparse
import base64
import hashlib
import http.client
import importlib.util
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))
from detectron2_repairs import RepairError, repair, replace_files, requirements

PROJECT, SDIST = "pb1-detectron2", "pb1-detectron2-0.6.tar.gz"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6+pure"
WHEEL = f"detectron2-{VERSION}-py3-none-any.whl"
# The places in the sdist of the packages that setup.py installs below detectron2.projects.
PROJECTS = {
    "point_rend": "projects/PointRend/point_rend",
    "deeplab": "projects/DeepLab/deeplab",
    "panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}
# In the place of the published setup.py, which compiles C++ sources with torch.
SETUP = """\
from setuptools import find_packages, setup

setup(
    name="detectron2", version={version!r}, license="Apache-2.0", python_requires=">=3.7", install_requires={needs},
    description="detectron2 v0.6 without compiled code, repaired for current libraries",
    packages=find_packages(include=["detectron2*"]),
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
)
"""


class InstallError(Exception):
    """Something went wrong; the message says what and what to do."""


def installed_version() -> str | None:
    """The version of a detectron2 that is installed or can be imported (a source folder on PYTHONPATH); None if none is."""
    try:
        return metadata.version("detectron2")
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    written = re.search(r"^__version__ = [\"'](.+?)[\"']", Path(spec.origin).read_text(encoding="utf-8"), re.MULTILINE)
    return written[1] if written else None


def is_recent(version: str) -> bool:
    """True for 0.6 and later, whatever follows ("0.6+cu113", "0.7.dev1")."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (0, 6)


def index_url() -> str:
    """The package index that pip uses: $PIP_INDEX_URL, pip's configuration, else PyPI."""
    url = os.environ.get("PIP_INDEX_URL", "")
    if not url:
        found = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
            capture_output=True,
            text=True,
            check=False,
        )
        url = found.stdout.strip()
    return (url or "https://pypi.org/simple").rstrip("/")


def _read_url(url: str, timeout: int) -> bytes:
    """The content of a URL, with the user name and password in it and the certificates that pip trusts."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(parts._replace(netloc=place).geturl(), headers={"Accept": "text/html, */*;q=0.1"})
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    certificates = os.environ.get("PIP_CERT") or None
    context = ssl.create_default_context(cafile=certificates) if parts.scheme == "https" else None
    with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
        return answer.read()


def fetch(target: Path) -> None:
    """Downloads the sdist from the package index to `target`.

    The file itself is fetched, because `pip download` would run its setup.py, which needs a compiler and torch.

    Raises:
        InstallError: the index or the file cannot be reached.
    """
    page_url = f"{index_url()}/{PROJECT}/"
    shown = re.sub(r"//[^/@]*@", "//", page_url)  # without a password
    try:
        page = _read_url(page_url, timeout=60).decode()
        link = re.search(rf'href="([^"]*{re.escape(SDIST)}[^"]*)"', page)
        if link is None:
            raise InstallError(f"{shown} does not offer {SDIST}. Fetch it elsewhere and pass it with --sdist FILE.")
        url = urljoin(page_url, link[1].replace("&amp;", "&")).split("#")[0]
        print(f"Fetching {re.sub(r'//[^/@]*@', '//', url)}", flush=True)
        target.write_bytes(_read_url(url, timeout=120))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InstallError(
            f"{SDIST} cannot be fetched from {shown} ({error}). Check the network or PIP_INDEX_URL, or fetch the file "
            "on another machine and pass it with --sdist FILE."
        ) from error


def verify(sdist: Path) -> None:
    """Raises InstallError unless the file is the one whose content was compared with the v0.6 tag."""
    if not sdist.is_file():
        raise InstallError(f"{sdist} does not exist.")
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SHA256:
        raise InstallError(f"{sdist} has the sha256 {found}, expected {SHA256}: it is damaged or another file.")


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpacks into `folder`, refusing paths that lead out of it; returns the sdist's root."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
            if not inside or not (member.isfile() or member.isdir()):
                raise InstallError(f"{sdist.name} holds {member.name!r}, which is not a plain file inside it.")
            archive.extract(member, folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def build_wheel(root: Path, folder: Path) -> Path:
    """Has pip pack the repaired tree at `root` as a wheel in `folder`; returns its path.

    Raises:
        InstallError: the tree lacks the configs of model_zoo or one of the projects, or pip fails.
    """
    configs = root / "detectron2/model_zoo/configs"
    if not any(configs.rglob("*.yaml")):
        raise InstallError(f"The sdist has no configs in {configs.relative_to(root)}.")
    for name, place in PROJECTS.items():
        if not any((root / place).rglob("*.py")):
            raise InstallError(f"The sdist has no Python files in {place}.")
        shutil.copytree(root / place, root / "detectron2/projects" / name)
    setup = root / "setup.py"
    needs = requirements(setup.read_text(encoding="utf-8"))
    setup.write_text(SETUP.format(version=VERSION, needs=needs), encoding="utf-8")
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(root))
    return folder / WHEEL


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "--quiet", *words[1:]]
    if subprocess.run(command, check=False).returncode:
        raise InstallError(f"pip failed (see above): {' '.join(command)}")


def install(wheel: Path) -> None:
    """Installs the wheel and its requirements into this interpreter's environment; raises InstallError if pip fails."""
    _pip("install", "--force-reinstall", "--no-deps", str(wheel))
    _pip("install", str(wheel))


def run(sdist: Path | None, wheel_dir: Path | None, installed: bool = True) -> None:
    """Fetches, verifies, repairs, packs and installs.

    Args:
        sdist: a file to use instead of fetching it.
        wheel_dir: the folder that keeps the wheel; None: it is deleted.
        installed: whether the wheel is installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if sdist is None:
            sdist = work / SDIST
            fetch(sdist)
        verify(sdist)
        (work / "sdist").mkdir()
        root = unpack(sdist, work / "sdist")
        repair(root)
        replace_files(root)
        if wheel_dir is not None:
            wheel_dir.mkdir(parents=True, exist_ok=True)
        wheel = build_wheel(root, wheel_dir or work)
        if installed:
            install(wheel)


def main(arguments: list[str] | None = None) -> int:
    """Reads the arguments; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="install even if a recent detectron2 is there")
    parser.add_argument("--sdist", type=Path, help="use this file instead of fetching it")
    parser.add_argument("--wheel-dir", type=Path, help="keep the wheel in this folder")
    parser.add_argument(
        "--no-install", action="store_true", help="make the wheel for another machine; needs --wheel-dir"
    )
    args = parser.parse_args(arguments)
    if args.no_install and args.wheel_dir is None:
        parser.error("--no-install needs --wheel-dir, the folder for the wheel")
    version = None if args.no_install else installed_version()
    if version is not None and is_recent(version) and not args.force:
        print(f"detectron2 {version} is installed; it is left alone.")
        return 0
    try:
        run(args.sdist, args.wheel_dir, not args.no_install)
    except (InstallError, RepairError) as error:
        print(f"detectron2 was not installed: {error}", file=sys.stderr)
        return 1
    print(f"{args.wheel_dir / WHEEL} is there." if args.no_install else f"Installed detectron2 {VERSION}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
