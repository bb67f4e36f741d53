"""Every example in a docstring is run."""

import doctest
import importlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("ctr", "workers", "deploy")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_are_true(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
