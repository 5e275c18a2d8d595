"""How long a process waits: for the import, and for its first call. Every sample is a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

IMPORTS = "import numpy, numba_nn; x = numpy.ones((32, 256), 'float32')"
EMPTY_CACHE = "import os, tempfile; folder = tempfile.TemporaryDirectory(); os.environ['NUMBA_NN_CACHE_DIR'] = folder.name"
CALL = "numba_nn.Linear(256, 512)(x)"


class Startup:
    version = "1"
    timeout = 600

    def timeraw_import_numba_nn(self) -> str:
        return "import numba_nn"

    def timeraw_import_numba(self) -> str:
        return "import numba"

    def timeraw_first_call_empty_cache(self) -> tuple[str, str]:
        return CALL, f"{EMPTY_CACHE}\n{IMPORTS}"


class FirstCall:
    """With a cache that an earlier process filled."""

    version = "1"
    timeout = 600

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        os.environ["NUMBA_NN_CACHE_DIR"] = self.folder.name
        subprocess.run([sys.executable, "-c", f"{IMPORTS}; {CALL}"], check=True)

    def teardown(self) -> None:
        del os.environ["NUMBA_NN_CACHE_DIR"]
        self.folder.cleanup()

    def timeraw_warm_cache(self) -> tuple[str, str]:
        return CALL, IMPORTS
