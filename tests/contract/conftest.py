"""Compilers make millions of small objects that live on; looking for cycles among them again and again takes time."""

import gc

gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 100)
