"""SwAV in TensorFlow, with Keras 3 layers."""

from __future__ import annotations

import os

from swav_spec.errors import require

# Keras chooses its backend once, when it is first imported.
_backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
require(_backend == "tensorflow", "KERAS_BACKEND", _backend, "tensorflow (or unset) for the TensorFlow implementation")
