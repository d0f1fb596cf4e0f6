"""swav-bench: what SwAV costs in each framework, and what it learns there."""

__version__ = "0.1.0"
