"""Which listener is in place once the plugins are loaded, and what pluggy knows of it."""

from __future__ import annotations

import sys

from probe import argument, give, listener, listener_manager, run


def registered(manager: object) -> list[object]:
    from airflow.providers.openlineage.plugins.listener import OpenLineageListener

    return [one for one in manager.pm.get_plugins() if isinstance(one, OpenLineageListener)]


def arguments_of_hooks(plugin: object) -> dict[str, list[str]]:
    """The argument names of each hook that pluggy finds in a listener, as it finds them."""
    from pluggy import PluginManager

    manager = PluginManager("airflow")
    manager.register(plugin)
    callers = manager.get_hookcallers(plugin)
    return {caller.name: list(caller.get_hookimpls()[0].argnames) for caller in callers}


def prepare(how: str | None) -> None:
    from airflow.providers.openlineage.plugins.listener import OpenLineageListener

    if how == "install fails":
        sys.modules["keepline.airflow.resident"] = None  # its import raises
    elif how == "another subclass":
        listener().__class__ = type("Listener", (OpenLineageListener,), {"__module__": "vendor"})
    elif how == "no submit_callable":
        del OpenLineageListener.submit_callable


def main() -> None:
    if how := argument(1):
        prepare(how)
    managers = [listener_manager()]
    try:
        from airflow.sdk.listener import get_listener_manager
    except ImportError:
        pass
    else:
        managers.append(get_listener_manager())
    from airflow.plugins_manager import get_plugin_info
    from airflow.providers.openlineage import conf

    plugins = [one["name"] for one in get_plugin_info()]
    found = {"plugins": plugins, "disabled": conf.is_disabled()}
    if not conf.is_disabled():
        from airflow.providers.openlineage.plugins.listener import OpenLineageListener
        from airflow.providers.openlineage.plugins.openlineage import OpenLineageProviderPlugin

        one = listener()
        found |= {
            "class": f"{type(one).__module__}.{type(one).__qualname__}",
            "registered": [[it is one for it in registered(manager)] for manager in managers],
            "plugin's": [it is one for it in OpenLineageProviderPlugin.listeners],
            "hooks": arguments_of_hooks(one),
            "provider's hooks": arguments_of_hooks(OpenLineageListener()),
        }
    else:
        found["registered"] = [[True for _ in registered(manager)] for manager in managers]
    give(found)


if __name__ == "__main__":
    run(main)
