"""Options and variables for as long as a block lasts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from airflow import settings
from airflow.configuration import conf as of_core
from airflow.providers.common.compat.sdk import conf as of_tasks

Options = Mapping[tuple[str, str], "str | None"]

_CONFIGURATIONS = (of_core,) if of_tasks is of_core else (of_core, of_tasks)  # Airflow 3.2 and later have two


@contextmanager
def conf_vars(options: Options) -> Iterator[None]:
    before = [{option: conf.get(*option, fallback=None) for option in options} for conf in _CONFIGURATIONS]
    with mock.patch.dict(os.environ):
        for option in options:
            os.environ.pop(of_core._env_var_name(*option), None)
        for conf in _CONFIGURATIONS:
            _put(conf, options)
        settings.configure_vars()
        try:
            yield
        finally:
            for conf, values in zip(_CONFIGURATIONS, before, strict=True):
                _put(conf, values)
    settings.configure_vars()


def _put(conf: Any, options: Options) -> None:
    for (section, key), value in options.items():
        if value is not None:
            if not conf.has_section(section):
                conf.add_section(section)
            conf.set(section, key, value)
        elif conf.has_section(section):
            conf.remove_option(section, key)


@contextmanager
def env_vars(variables: Mapping[str, str]) -> Iterator[None]:
    with mock.patch.dict(os.environ, variables):
        yield
