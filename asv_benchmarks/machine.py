"""Describe this machine to asv, in ~/.asv-machine.json, and print the name under which its results are kept.

The name is that of the CPU and its number of cores (``znver5-2-cores``), or the argument; never that of the host.
"""

import os
import platform
import sys

from asv.machine import Machine, MachineCollection
from llvmlite.binding import get_host_cpu_name

name = sys.argv[1] if len(sys.argv) > 1 else f"{get_host_cpu_name()}-{os.cpu_count()}-cores"
MachineCollection.save(name, {**Machine.get_defaults(), "machine": name, "os": platform.system()})
print(name)
