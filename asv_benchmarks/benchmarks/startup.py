"""How long a process waits: for the import, and for its first call. Every sample is a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from .common import DEVICES, place

IMPORTS = "import numpy, numba_nn; x = numpy.ones((32, 256), 'float32')"
EMPTY_CACHE = "import os, tempfile; folder = tempfile.TemporaryDirectory(); os.environ['NUMBA_NN_CACHE_DIR'] = folder.name"
CALLS = {
    "cpu": "numba_nn.Linear(256, 512)(x)",
    "cuda": "numba_nn.Linear(256, 512).to('cuda')(numba_nn.core.device.CUDA.from_host(x)).copy_to_host()",
}


class Startup:
    version = "1"
    timeout = 600

    def timeraw_import_numba_nn(self) -> str:
        return "import numba_nn"

    def timeraw_import_numba(self) -> str:
        return "import numba"


class FirstCall:
    """With an empty cache, and with one that an earlier process filled; it holds kernels of the CPU only."""

    version = "2"
    timeout = 600
    param_names = ("device",)
    params = (DEVICES,)

    def setup(self, device: str) -> None:
        self.folder = tempfile.TemporaryDirectory()  # first, as asv tears down what it skips, too
        os.environ["NUMBA_NN_CACHE_DIR"] = self.folder.name
        place(device)
        subprocess.run([sys.executable, "-c", f"{IMPORTS}; {CALLS[device]}"], check=True)

    def teardown(self, *_: object) -> None:
        del os.environ["NUMBA_NN_CACHE_DIR"]
        self.folder.cleanup()

    def timeraw_empty_cache(self, device: str) -> tuple[str, str]:
        return CALLS[device], f"{EMPTY_CACHE}\n{IMPORTS}"

    def timeraw_warm_cache(self, device: str) -> tuple[str, str]:
        return CALLS[device], IMPORTS
