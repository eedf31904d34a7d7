"""Whether PyTorch finds a GPU on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from typing import Final

CODE: Final = "import torch; print(torch.cuda.get_device_name(0))"


@cache
def device_name() -> str | None:
    """Return the name of the first GPU that PyTorch can use, None if there is none.

    Asked in a process of its own: this one would keep PyTorch's memory and a context on the device.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None
