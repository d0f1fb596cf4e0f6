"""Stands in for torchvision where that cannot be imported, so that lightly can: see tests/stand_in.py."""
