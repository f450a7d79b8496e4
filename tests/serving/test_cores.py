"""Where the threads of a worker run."""

import json
import os
import subprocess
import sys

import pytest

from serving.cores import NUMBER

WHERE = """
import json, os
from concurrent.futures import ThreadPoolExecutor
from serving.cores import run_on_any, stay_on_one
stay_on_one()
here = lambda: sorted(os.sched_getaffinity(0))
with ThreadPoolExecutor(1) as own, ThreadPoolExecutor(1, initializer=run_on_any) as free:
    print(json.dumps([here(), own.submit(here).result(), free.submit(here).result()]))
"""


def where(**environment: str) -> tuple[list[int], list[int], list[int]]:
    """The cores of a worker's first thread, of one that it starts, and of one that computes for long."""
    told = subprocess.run([sys.executable, "-c", WHERE], env=os.environ | environment, check=True, capture_output=True).stdout
    first, started, computing = json.loads(told)
    return first, started, computing


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not choose its cores")
def test_each_worker_stays_on_a_core_of_its_own_and_the_model_has_all() -> None:
    ours = sorted(os.sched_getaffinity(0))
    workers = [where(**{NUMBER: str(number)}) for number in range(len(ours))]
    assert sorted(core for [core], _, _ in workers) == ours
    assert all(first == started and computing == ours for first, started, computing in workers)
    [alone], _, _ = where()
    assert alone in ours
