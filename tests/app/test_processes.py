"""Processes that their parent leaves behind."""

import subprocess
import sys
import time

import psutil

from serve_app.processes import end_processes, with_descendants

_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_DEAF!r}], check=False)"


def test_a_process_that_outlives_its_parent_and_hears_no_sigterm_is_ended() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    tree = with_descendants([psutil.Process(parent.pid)])
    assert len(tree) == 2
    parent.terminate()
    parent.wait()
    tree[1].terminate()
    time.sleep(0.2)
    assert tree[1].is_running()
    end_processes(tree, patience_s=0.2)
    parent.stdout.close()
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in tree)


def test_processes_that_have_ended_meanwhile_are_no_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(gone.pid)
    gone.wait()
    assert with_descendants([process]) == []
    end_processes([process])
