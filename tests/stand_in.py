"""lightly imports torchvision, whatever of it one wants; SwAV's modules use nothing of that.

torchvision's builds fit one build of torch each, so that beside a CPU build of torch there is often none that can be
imported. Then the tests put a package of that name on the path which holds names and nothing else.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "torchvision_stand_in"


def for_torchvision(patch):
    """Puts the stand-in on the path of this process and of its children, where the real one cannot be imported.

    Args:
        patch: a pytest.MonkeyPatch; what it undoes is the path.
    """
    if not real_one_is_there():
        patch.syspath_prepend(FOLDER)
        patch.setenv("PYTHONPATH", str(FOLDER), prepend=os.pathsep)


def real_one_is_there():
    """Whether torchvision can be imported and is not the stand-in that this process has used before."""
    try:
        found = importlib.import_module("torchvision.ops")
    except (ImportError, OSError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return FOLDER not in Path(found.__file__).parents
