"""Importing this module before torch lets OpenMP's threads sleep while they wait for each other.

A thread that has done its part of an operation waits for the others. torch's wheels use GNU's OpenMP (libgomp), whose
threads then spin for some milliseconds before they sleep. If another program runs on the cores, they spin against the very
thread that they wait for, and a step can take ten times as long. Asleep they leave the core to whoever needs it.

OpenMP reads its variables once, when it is loaded. Whatever the user has set is left as it is. Only programs should
import this module, because it changes the environment of the process.
"""

import os
from collections.abc import MutableMapping

# OpenMP's own variable, that of libgomp, and that of the libraries of Intel and LLVM (conda, macOS).
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_asleep(environment: MutableMapping[str, str]) -> None:
    """Makes threads that wait sleep, unless the environment already says how they wait."""
    if not any(name in environment for name in WAIT_VARIABLES):
        environment["OMP_WAIT_POLICY"] = "passive"


wait_asleep(os.environ)
