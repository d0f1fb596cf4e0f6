"""What an implementation finds on this machine, asked in a process of its own: `python -m swav_bench.probe NAME`.

Prints one JSON line: device -> what Device.describe says, or the sentence why it is not there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from swav_spec import registry
from swav_spec.config import DeviceKind, Execution, Precision
from swav_spec.errors import InvalidInput

DEVICES: tuple[DeviceKind, ...] = ("cpu", "gpu")


def main() -> None:
    """Prints the answer for the implementation named on the command line."""
    name = sys.argv[1]
    precision: Precision = "float64" if name == "numpy" else "float32"
    found: dict[str, Any] = {}
    for device in DEVICES:
        try:
            implementation: Any = registry.load(name, Execution(device, precision))
            found[device] = {**implementation.describe(), "modes": list(implementation.modes)}
        except InvalidInput as error:
            found[device] = str(error)
    print(json.dumps(found))


def probe(name: str, interpreter: str, variables: dict[str, str]) -> dict[str, Any]:
    """Device -> description, or why there is none; asked of `interpreter` with these environment variables."""
    command = [interpreter, "-P", "-m", "swav_bench.probe", name]
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return dict.fromkeys(DEVICES, f"{type(error).__name__}: {interpreter} gave no answer")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        return dict.fromkeys(DEVICES, said[-1] if said else f"exit code {done.returncode}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


if __name__ == "__main__":
    main()
