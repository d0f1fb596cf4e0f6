"""`python -m swav_bench`."""

from __future__ import annotations

from swav_bench.cli import main

if __name__ == "__main__":
    main()
