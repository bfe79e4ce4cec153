"""Marks of tests."""

from __future__ import annotations

import pytest

skip_if_force_lowest_dependencies_marker = pytest.mark.filterwarnings("default")
