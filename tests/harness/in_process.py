"""What a child process would do, done in this one: seconds less for each test that is not about processes."""

from __future__ import annotations

import json

from swav_bench import child, children


class _Pipe:
    def __init__(self, handle):
        self._handle = handle

    def write(self, line):
        self._handle(json.loads(line))

    def flush(self):
        pass


def run(task, job, process, handle, **_):
    """Stands in for swav_bench.children.run."""
    found = child.run({"task": task, **json.loads(json.dumps(job))}, child.Reporter(_Pipe(handle)))
    return children.Ended("ok", "", json.loads(json.dumps(found, allow_nan=False)))
