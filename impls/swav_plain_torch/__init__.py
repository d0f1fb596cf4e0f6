"""SwAV in PyTorch as one would otherwise write it: eager, from the specification, or of lightly's modules.

Peers to compare with.
"""
