"""Fixtures that every part of the suite may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real raw files; the test is skipped where GEMSBENCH_MIRROR is unset."""
    folder = os.environ.get("GEMSBENCH_MIRROR", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real files are read from the folder named by GEMSBENCH_MIRROR, which is not set")
    return Path(folder)
