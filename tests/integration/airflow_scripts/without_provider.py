"""Load the plugins where the OpenLineage provider isn't installed, nor what came with it."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder

from probe import give, listener_manager

MISSING = ("airflow.providers.openlineage", "airflow.providers.common.compat.sdk")


class Finder(PathFinder):
    """Finds what is installed, but for what is missing."""

    @classmethod
    def find_spec(cls, name: str, *args: object) -> object:
        return None if name in MISSING else super().find_spec(name, *args)


def main() -> None:
    import airflow.plugins_manager as manager

    for name in [name for name in sys.modules if name.startswith(MISSING)]:
        del sys.modules[name]
    sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
    listener_manager()
    give({"plugins": [one["name"] for one in manager.get_plugin_info()]})


if __name__ == "__main__":
    main()
