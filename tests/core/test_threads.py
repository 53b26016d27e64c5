"""Threads: what holds is settled before torch is loaded, in this process and in those that it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from polyrank.core import threads


def told(code: str, **environment: str) -> list[str]:
    """What a new interpreter prints, with nothing settled but what is given."""
    clean = {
        name: value for name, value in os.environ.items() if name not in (threads.WAIT, threads.SPIN, threads.COUNT)
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean | environment
    )
    return done.stdout.split("\n")[:-1]


SHOWN = "import os; from polyrank.core.threads import settle; print(settle()); print(os.environ['OMP_WAIT_POLICY'])"
SHOWN += "; print(os.environ.get('GOMP_SPINCOUNT'))"


def test_threads_soon_sleep_unless_somebody_says_otherwise():
    """A number of turns beside a policy would be the stronger one, so it is not set beside a user's."""
    settled = ["passive, after 1000 turns (GOMP_SPINCOUNT)", "PASSIVE", "1000"]
    assert told(f"import polyrank; {SHOWN}") == settled
    own = told(f"import polyrank; {SHOWN}", OMP_WAIT_POLICY="ACTIVE")
    assert own == ["active, by OMP_WAIT_POLICY", "ACTIVE", "None"]
    own = told(f"import polyrank; {SHOWN}", GOMP_SPINCOUNT="7")
    assert own == ["passive, after 7 turns (GOMP_SPINCOUNT)", "PASSIVE", "7"]
    late = told(f"import torch; import polyrank; {SHOWN}")
    assert late[0].startswith("as torch has it, which was loaded before polyrank")
    assert late[1:] == ["PASSIVE", "1000"]  # for processes that are started from here


def test_whatever_is_imported_first_of_the_package_comes_before_torch():
    """Libraries below it load torch; the settings have to be there by then."""
    code = "import sys; import polyrank; print('torch' in sys.modules)"
    assert told(code) == ["False"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_no_more_threads_than_cores_that_may_be_used():
    """Where a process is bound to a core torch sees that itself; a quota it does not see."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from polyrank.core import limits"
    assert told(f"{code}; print(limits.cores()); import torch; print(torch.get_num_threads())") == ["1", "1"]
