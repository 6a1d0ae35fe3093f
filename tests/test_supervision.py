"""Does a child that misbehaves end as a fact with a place, and never as a surprise?"""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from divergence_doctor.supervision import Place, PlaceFile, supervise


@pytest.fixture
def child(tmp_path):
    """Return a function that runs a script as a supervised child."""

    def run(script, *, time_limit=60.0, memory_limit=1 << 33, on_tick=lambda _place: None):
        (tmp_path / "misbehaving.py").write_text(textwrap.dedent(script))
        return supervise(
            "misbehaving",
            [str(tmp_path / "place")],
            place=PlaceFile(tmp_path / "place"),
            log=tmp_path / "log.txt",
            environment={**os.environ, "PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
            time_limit=time_limit,
            memory_limit=memory_limit,
            on_tick=on_tick,
        )

    return run


WRITES_ITS_PLACE = """
    import os, signal, sys, time
    from pathlib import Path
    from divergence_doctor.supervision import PlaceFile
    PlaceFile(Path(sys.argv[1])).write(3, "forward", "dense_7")
"""


def test_a_child_that_finishes_is_finished(child):
    ended = child("print('done')")
    assert (ended.how, ended.status) == ("finished", 0)


def test_a_child_that_segfaults_left_its_place(child):
    ended = child(WRITES_ITS_PLACE + "    os.kill(os.getpid(), signal.SIGSEGV)\n")
    assert (ended.how, ended.status) == ("signal", -signal.SIGSEGV)
    assert ended.sentence == "the replay was ended by SIGSEGV at step 3, forward of dense_7"


def test_a_child_that_hangs_is_ended_by_the_clock(child):
    ended = child(WRITES_ITS_PLACE + "    time.sleep(600)\n", time_limit=3.0)
    assert (ended.how, ended.place.detail) == ("time", "dense_7")


def test_a_child_that_eats_the_memory_is_ended_by_its_size(child):
    script = WRITES_ITS_PLACE + "    hoard = bytearray(b'x') * (600 << 20)\n    time.sleep(600)\n"
    ended = child(script, memory_limit=300 << 20)
    assert ended.how == "memory"
    assert ended.peak > 300 << 20


def test_the_kernels_own_out_of_memory_kill_counts_as_memory(child):
    ended = child(WRITES_ITS_PLACE + "    os.kill(os.getpid(), signal.SIGKILL)\n")
    assert ended.how == "memory"


def test_ctrl_c_takes_the_child_and_what_it_started_along(child, tmp_path):
    script = f"""
        import subprocess, sys, time
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(tmp_path / "pid")!r}, "w").write(str(other.pid))
        time.sleep(600)
    """

    def interrupt(_place):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child(script, on_tick=interrupt)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _runs(pid):
            break
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_place_that_was_never_written_is_the_start(tmp_path):
    assert PlaceFile(tmp_path / "none").read() == Place(-1, "starting", "")


def test_a_place_is_cleaned_when_it_is_read(tmp_path):
    PlaceFile(tmp_path / "place").write(0, "forward", "evil\x1b[2J" + "x" * 900)
    assert "\x1b" not in str(PlaceFile(tmp_path / "place").read())
