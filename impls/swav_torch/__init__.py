"""SwAV in PyTorch."""
