"""Each column, and each peer, runs with its own extra alone.

All frameworks are installed here, so a child process is started in which every distribution outside the
extra's closure of requirements is made impossible to import; then it trains one step.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections import deque

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests import stand_in

from swav_spec.registry import BUILT_IN

#: Extra -> frameworks, of all that extras install, that come with it.
COME_WITH = {"torch": {"torch"}, "jax": {"jax"}, "tensorflow": {"tensorflow"}, "lightly": {"torch", "lightly"}}

CHILD = '''
import dataclasses, importlib.abc, json, sys
forbidden = set(json.load(sys.stdin))

class Wall(importlib.abc.MetaPathFinder):
    """Finds what the usual finders find, but for the forbidden packages, which look as if they were not installed."""

    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)

sys.meta_path[:] = [Wall(list(sys.meta_path))]
import numpy as np
from swav_spec import recipes, registry
from swav_spec.multicrop import crop_plan
from swav_spec.network import initial_weights
recipe = dataclasses.replace(recipes.recipe("textures"), batch=4, queue_length=8)
config = recipes.resolve(recipe, samples=8, steps=2)
implementation = registry.load(sys.argv[1])
images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
state = implementation.init(config, initial_weights(config.network, 0))
plan = crop_plan(config, seed=0, epoch=0, samples=np.arange(4), heights=32, widths=32)
state, metrics = implementation.step(state, implementation.to_device(images), plan)
print("loss", float(implementation.to_host(metrics["loss"])))
'''


def closure(extra: str) -> set[str]:
    """Names of the distributions that swav-bench[extra] requires, itself included, that are installed."""
    seen: set[str] = set()
    todo = deque([Requirement(f"swav-bench[{extra}]")])
    done = set()
    while todo:
        wanted = todo.popleft()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in done:
            continue
        done.add(key)
        try:
            requires = importlib.metadata.requires(wanted.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        seen.add(key[0])
        for text in requires:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": name}) for name in ("", *wanted.extras)):
                todo.append(requirement)
    return seen


@pytest.mark.parametrize("name", [name for name, (_, extra, _) in BUILT_IN.items() if extra])
def test_it_runs_with_its_own_extra_alone(name, monkeypatch):
    _, extra, _ = BUILT_IN[name]
    if extra == "lightly":
        stand_in.for_torchvision(monkeypatch)
    allowed = closure(extra)
    packages = importlib.metadata.packages_distributions()
    forbidden = [
        module for module, owners in packages.items() if not {canonicalize_name(owner) for owner in owners} & allowed
    ]
    assert set().union(*COME_WITH.values()).difference(forbidden) == COME_WITH[extra]
    run = subprocess.run(
        [sys.executable, "-c", CHILD, name],
        input=json.dumps(forbidden),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("loss ")
