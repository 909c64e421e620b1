"""The configuration: detectron2's keys and the project's own, each with a comment and its source."""

from adet_iuq.config.defaults import AddConfig, get_cfg
from adet_iuq.config.load import LoadedConfig, load_config, load_keys
from adet_iuq.config.lookup import find_recipe
from adet_iuq.config.projects import add_project_option, import_project, import_projects

__all__ = [
    "AddConfig",
    "LoadedConfig",
    "add_project_option",
    "find_recipe",
    "get_cfg",
    "import_project",
    "import_projects",
    "load_config",
    "load_keys",
]
