"""SwAV in PyTorch as one would otherwise write it: eager, from the specification. A peer to compare with."""
