"""Bounds the threads of what computes in a process without being asked: BLAS and OpenCV.

Frameworks are told in their backends. Left alone, these take a thread per core of the machine for
each call, beside the threads in which they are called.
"""

from __future__ import annotations

import os
from typing import Final

import cv2
from threadpoolctl import threadpool_limits

VARIABLES: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by these libraries when they are loaded, rather than `OMP_NUM_THREADS`, which Ray sets to
the CPUs that a replica asks for: a share of one becomes 1."""


def bind_threads(compute: int) -> None:
    """Bound the threads of this process, of what it has loaded already and of what it will load.

    OpenCV gets one, since several images are decoded side by side, in threads of ours.

    Args:
        compute: how many may compute one operation of linear algebra.
    """
    for variable in VARIABLES:
        os.environ[variable] = str(compute)
    threadpool_limits(compute, user_api="blas")
    cv2.setNumThreads(1)
