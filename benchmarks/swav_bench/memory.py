"""Peak memory of this process, by the operating system."""

from __future__ import annotations

from pathlib import Path


def process_peak_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Most resident memory so far (Linux VmHWM, which starts anew with each program); None where it is not told.

    Not getrusage: its maximum is inherited from the parent that started the program.
    """
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
