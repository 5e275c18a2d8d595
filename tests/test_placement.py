"""Where the threads of OpenMP run: off the processor of the thread that calls them."""

from __future__ import annotations

import os
import sys

import pytest

from numba_nn.core import placement, threads

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or threads.threading_layer() != "omp" or len(os.sched_getaffinity(0)) < 2,
    reason="placed are workers of OpenMP, on Linux, where there are two processors",
)
TWO = {"NUMBA_NUM_THREADS": "2", **dict.fromkeys(placement.BINDING)}

MOVED = """
import json, os
from numba_nn.core import placement, threads

everywhere, seen = os.sched_getaffinity(0), []
for processor in sorted(everywhere)[:2]:
    os.sched_setaffinity(0, {processor})  # the thread moves there
    os.sched_setaffinity(0, everywhere)
    threads.prepare()
    [worker] = placement._mine.workers
    seen.append([worker != os.getpid(), os.sched_getaffinity(worker) == everywhere - {placement._mine.processor}])
print(json.dumps([seen, os.sched_getaffinity(0) == everywhere]))
"""


def test_workers_keep_off_the_processor_of_the_thread_that_calls(run_python):
    assert run_python(MOVED, **TWO) == [[[True, True]] * 2, True]


MORE = """
import json, os
from numba_nn.core import placement, threads

threads.prepare()
print(json.dumps([os.sched_getaffinity(worker) == os.sched_getaffinity(0) for worker in placement._mine.workers]))
"""


def test_more_threads_than_processors_run_anywhere(run_python):
    count = len(os.sched_getaffinity(0)) + 1
    assert run_python(MORE, **{**TWO, "NUMBA_NUM_THREADS": str(count)}) == [True] * (count - 1)


@pytest.mark.parametrize(("name", "value"), [("OMP_PROC_BIND", "true"), ("GOMP_CPU_AFFINITY", "0")])
def test_threads_that_the_user_has_bound_stay_where_they_are(run_python, name, value):
    script = "from numba_nn.core import placement, threads\nthreads.prepare()\nprint(placement._mine.size)"
    assert run_python(script, **{**TWO, name: value}) == 1


def test_a_thread_that_is_not_of_this_process_is_passed_over():
    before = os.sched_getaffinity(os.getppid())
    placement._place((os.getppid(),), frozenset({min(before)}))
    assert os.sched_getaffinity(os.getppid()) == before
