"""SwAV in JAX, with Flax modules and Optax updates."""
