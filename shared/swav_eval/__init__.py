"""How good frozen features are: kNN and linear probes, label-free figures, tables. No framework."""
