"""What pyproject.toml cannot say: `configs` and `projects`, beside the package in a checkout, are installed inside it."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

INSIDE = {"adet_iuq.configs": "configs"}
if Path("projects").is_dir():  # the package works without them
    INSIDE["adet_iuq.projects"] = "projects"
LEFT_OUT = ["*.tests", "*.tests.*", "*__pycache__*"]

setup(
    packages=[
        *find_packages(include=["adet_iuq", "adet_iuq.*"]),
        *INSIDE,
        *(f"{name}.{one}" for name, folder in INSIDE.items() for one in find_namespace_packages(folder, LEFT_OUT)),
    ],
    package_dir=INSIDE,
)
