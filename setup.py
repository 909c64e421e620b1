"""What pyproject.toml cannot say: `configs` and `projects`, beside the package in a checkout, are installed inside it."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["adet_iuq", "adet_iuq.*"]),
        "adet_iuq.configs",
        *(f"adet_iuq.projects.{name}" for name in find_packages("projects")),
    ],
    package_dir={"adet_iuq.configs": "configs", "adet_iuq.projects": "projects"},
)
