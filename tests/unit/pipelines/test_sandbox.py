"""Whatever a file does to its decoder stays in the child, and every clip gets its verdict."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks import films
from deployments.contracts import FrameBatch
from deployments.errors import AppError, DecoderLost, PoisonClip, SourceNotFound, UnreadableVideo
from pipelines import sandbox as sandbox_module
from pipelines.sandbox import ATTEMPTS, Fault, Sandbox, SandboxLimits
from pipelines.sandbox_pipe import ChildDied, ChildProcess, patience
from pipelines.video import ClipPlan
from tests.unit.pipelines.conftest import Library
from tests.videos import read_index, write_sound

ROOT = Path(__file__).resolve().parents[3]
CLIPS = [ClipPlan(index, index * 0.6, index * 0.6 + 0.6, (index * 0.6, index * 0.6 + 0.2)) for index in range(4)]
SIZE = (48, 32)
QUICK = SandboxLimits(deadline_s=1.5, cpu_s=1)
MEMORY_BYTES = 2**29


def verdicts(sandbox: Sandbox, path: Path, clips: Sequence[ClipPlan] = CLIPS) -> list[str]:
    outcomes = list(sandbox.decode(path, clips, SIZE))
    assert [clip for clip, _ in outcomes] == list(clips), "every clip once, in order"
    return [outcome.code if isinstance(outcome, AppError) else "frames" for _, outcome in outcomes]


def gone(pid: int) -> bool:
    """Say whether the process has ended and been waited for, or does so within 5 s."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.01)
    return False


def test_frames_of_the_child_are_those_of_the_decoder(library: Library, sandbox: Sandbox) -> None:
    for clip, outcome in sandbox.decode(library.path("h264.mp4"), CLIPS, SIZE):
        assert isinstance(outcome, FrameBatch)
        assert outcome.frames.shape == (2, 32, 48, 3)
        assert outcome.frames.flags.c_contiguous
        assert [read_index(frame) for frame in outcome.frames] == [clip.index * 15, clip.index * 15 + 5]
        assert outcome.pts_s.tolist() == pytest.approx(clip.sample_times_s, abs=1e-9)


def test_one_child_serves_probes_and_decodes(library: Library, sandbox: Sandbox) -> None:
    sandbox.probe(library.path("h264.mp4"))
    pid = sandbox.child_pid
    assert pid is not None
    verdicts(sandbox, library.path("h264.mp4"))
    with pytest.raises(UnreadableVideo):
        sandbox.probe(library.made("sound.mp4", write_sound))
    with pytest.raises(SourceNotFound):
        sandbox.probe("/nowhere/at all.mp4")
    assert sandbox.probe(library.path("h264.mkv")).codec == "h264"
    assert sandbox.child_pid == pid


def test_the_child_starts_quickly(library: Library) -> None:
    """0.25 s alone on the machine; the bound leaves room for neighbours."""
    took_s = []
    for _ in range(3):
        begun_s = time.perf_counter()
        with Sandbox() as sandbox:
            sandbox.probe(library.path("h264.mp4"))
        took_s.append(time.perf_counter() - begun_s)
    assert min(took_s) < 1.0


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("segfault", "SIGSEGV"),
        ("hang", "deadline"),
        ("spin", "deadline|CPU"),
        ("memory", "memory"),
        ("garbage", "protocol"),
        ("exit", "status 3"),
    ],
)
def test_a_clip_that_ends_the_decoder_is_tried_three_times_and_the_rest_goes_on(
    kind: str, why: str, library: Library
) -> None:
    limits = QUICK if kind in ("hang", "spin") else SandboxLimits(memory_bytes=MEMORY_BYTES)
    with Sandbox(limits, faults=[Fault(kind, clip_index=1)]) as sandbox:  # type: ignore[arg-type]
        outcomes = [outcome for _, outcome in sandbox.decode(library.path("h264.mp4"), CLIPS, SIZE)]
    assert [type(outcome) for outcome in outcomes] == [FrameBatch, PoisonClip, FrameBatch, FrameBatch]
    poison = outcomes[1]
    assert isinstance(poison, PoisonClip)
    assert poison.details == {"clip_index": 1, "attempts": ATTEMPTS}
    assert any(word in poison.message for word in why.split("|")), poison.message


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_clip_that_succeeds_in_a_fresh_child_is_no_poison(attempts: int, library: Library) -> None:
    with Sandbox(faults=[Fault("segfault", clip_index=2, attempts=attempts)]) as sandbox:
        assert verdicts(sandbox, library.path("h264.mp4")) == ["frames"] * 4


def test_two_poisoned_clips_in_a_row_have_three_attempts_each(library: Library) -> None:
    with Sandbox(faults=[Fault("exit", clip_index=index) for index in (0, 1)]) as sandbox:
        assert verdicts(sandbox, library.path("h264.mp4")) == ["poison_clip", "poison_clip", "frames", "frames"]


def test_a_probe_that_ends_the_decoder_three_times_is_an_unreadable_video(library: Library) -> None:
    with Sandbox(faults=[Fault("segfault")]) as sandbox:
        with pytest.raises(UnreadableVideo, match="decoder ended at each of 3 attempts: it died of SIGSEGV"):
            sandbox.probe(library.path("h264.mp4"))
        assert verdicts(sandbox, library.path("h264.mp4")) == ["frames"] * 4
    with Sandbox(faults=[Fault("segfault", attempts=2)]) as sandbox:
        assert sandbox.probe(library.path("h264.mp4")).duration_s == pytest.approx(2.4)


def test_an_error_of_the_whole_file_is_every_clips_verdict(library: Library, sandbox: Sandbox) -> None:
    path = library.made("sound.mp4", write_sound)
    assert verdicts(sandbox, path) == ["unreadable_video"] * 4
    assert verdicts(sandbox, path.with_name("nothing.mp4")) == ["source_not_found"] * 4
    assert verdicts(sandbox, library.path("h264.mp4"), []) == []


def test_deaths_leave_no_process_and_no_open_file_behind(library: Library) -> None:
    me = psutil.Process()
    with Sandbox(faults=[Fault("exit", clip_index=2)]) as sandbox:
        sandbox.probe(library.path("h264.mp4"))
        files, children = me.num_fds(), len(me.children())
        assert "poison_clip" in verdicts(sandbox, library.path("h264.mp4"))
        assert me.num_fds() == files
        assert len(me.children()) == children, "no zombies"
        pid = sandbox.child_pid
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_a_sandbox_that_is_forgotten_takes_its_child_along(library: Library) -> None:
    sandbox = Sandbox()
    sandbox.probe(library.path("h264.mp4"))
    pid = sandbox.child_pid
    del sandbox
    assert pid is not None
    assert gone(pid)


def test_resident_memory_stays_below_the_limit(library: Library) -> None:
    """A child that eats all it can get is watched until it dies."""
    highest, over = 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.is_set():
            try:
                highest = max(highest, psutil.Process(sandbox.child_pid or 0).memory_info().rss)
            except psutil.Error:
                continue

    with Sandbox(SandboxLimits(memory_bytes=MEMORY_BYTES), faults=[Fault("memory", clip_index=1)]) as sandbox:
        sandbox.probe(library.path("h264.mp4"))
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert verdicts(sandbox, library.path("h264.mp4"), CLIPS[:2]) == ["frames", "poison_clip"]
        finally:
            over.set()
            watcher.join()
    assert MEMORY_BYTES // 2 < highest <= MEMORY_BYTES


@pytest.mark.parametrize("fault", ["spin", "hang"])
def test_the_child_dies_with_its_parent_even_while_at_work(fault: str, library: Library) -> None:
    """A parent killed by SIGKILL cannot clean up; the child is in the middle of a clip and reads no pipe."""
    script = textwrap.dedent(
        f"""
        from pipelines.sandbox import Fault, Sandbox
        from pipelines.video import ClipPlan
        sandbox = Sandbox(faults=[Fault({fault!r}, clip_index=1)])
        clips = [ClipPlan(i, 0.0, 1.0, (0.0,)) for i in range(2)]
        for clip, outcome in sandbox.decode({str(library.path("h264.mp4"))!r}, clips, (28, 28)):
            print(sandbox.child_pid, flush=True)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert gone(child)


def test_the_child_outlives_the_thread_that_first_needed_it(library: Library, sandbox: Sandbox) -> None:
    """Linux ends a child with the thread, not the process, that started it."""
    thread = threading.Thread(target=sandbox.probe, args=(library.path("h264.mp4"),))
    thread.start()
    thread.join()
    pid = sandbox.child_pid
    time.sleep(0.1)
    sandbox.probe(library.path("h264.mp4"))
    assert sandbox.child_pid == pid


def test_a_kept_child_holds_the_index_of_one_long_film_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films, "FILMS", tmp_path)
    long_s = 7200
    size = {"width": 320, "height": 180}

    def peak_bytes(film: Path) -> int:
        clip = ClipPlan(0, 0.0, 10.0, tuple(float(second) for second in range(0, 10, 2)))
        with Sandbox() as sandbox:
            sandbox.probe(film)
            for _ in range(4):
                assert [type(outcome) for _, outcome in sandbox.decode(film, [clip], (140, 84))] == [FrameBatch]
            status = Path(f"/proc/{sandbox.child_pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    short = peak_bytes(films.write_film("short", duration_s=20, **size))
    long = peak_bytes(films.write_film("long", duration_s=long_s, **size))
    # 75 bytes a frame are libav's index of one opened MP4; holes left in the heap made it 110.
    assert long - short < 95 * 25 * long_s


def test_threads_take_turns(library: Library, sandbox: Sandbox) -> None:
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(verdicts(sandbox, library.path("h264.mp4")))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["frames"] * 4] * 4


def test_an_iterator_left_half_way_ends_the_child_at_once_and_frees_the_sandbox(
    library: Library, sandbox: Sandbox
) -> None:
    outcomes = sandbox.decode(library.path("h264.mp4"), CLIPS, SIZE)
    next(outcomes)
    with pytest.raises(RuntimeError, match="used up or closed"):
        sandbox.probe(library.path("h264.mp4"))
    pid = sandbox.child_pid
    outcomes.close()  # type: ignore[attr-defined]  # a generator
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert verdicts(sandbox, library.path("h264.mp4")) == ["frames"] * 4


def test_a_slow_consumer_is_no_missed_deadline(library: Library) -> None:
    with Sandbox(QUICK) as sandbox:
        outcomes = sandbox.decode(library.path("h264.mp4"), CLIPS, SIZE)
        next(outcomes)
        time.sleep(QUICK.deadline_s + 0.2)
        assert [type(outcome) for _, outcome in outcomes] == [FrameBatch] * 3


def test_the_cpu_limit_counts_each_clip_anew(library: Library) -> None:
    """Together the clips use more CPU time than one may; each by far less, also on a machine that is slow just now."""
    many = [ClipPlan(index, 0.0, 6.0, tuple(k / 10 for k in range(60))) for index in range(99)]
    with Sandbox(SandboxLimits(cpu_s=1)) as sandbox:
        used_s = 0.0
        for _, outcome in sandbox.decode(library.path("h264_long_gop.mp4"), many, (900, 900)):
            assert isinstance(outcome, FrameBatch), repr(outcome)
            used_s = sum(psutil.Process(sandbox.child_pid).cpu_times()[:2])
            if used_s > 2.5:
                break
    assert used_s > 2.5


def test_a_clip_over_much_video_has_limits_in_proportion(library: Library) -> None:
    """Decoding an hour for one clip may take longer than ten seconds for another."""
    assert patience((5.0,)) == patience((0.0, 19.0)) == 1.0
    assert patience((100.0, 130.0, 160.0)) == 3.0
    long = ClipPlan(1, 0.0, 60.0, (0.0, 60.0))
    begun_s = time.monotonic()
    with Sandbox(SandboxLimits(deadline_s=0.8), faults=[Fault("hang", clip_index=1, attempts=1)]) as sandbox:
        assert verdicts(sandbox, library.path("h264.mp4"), [long]) == ["frames"]
    assert time.monotonic() - begun_s > 2.4


def test_a_child_that_cannot_start_is_a_lost_decoder(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with Sandbox() as sandbox:
        with pytest.raises(DecoderLost):
            sandbox.probe(library.path("h264.mp4"))
        assert verdicts(sandbox, library.path("h264.mp4")) == ["decoder_lost"] * 4


def test_nothing_of_the_callers_environment_reaches_the_child(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "sk-canary")
    with Sandbox() as sandbox:
        sandbox.probe(library.path("h264.mp4"))
        child = psutil.Process(sandbox.child_pid)
        assert "CANARY_API_KEY" not in child.environ()
        assert os.getsid(child.pid) == child.pid, "a session of its own: Ctrl-C in the terminal is not for it"
        assert os.readlink(f"/proc/{child.pid}/fd/2") == os.devnull
        assert os.readlink(f"/proc/{child.pid}/fd/1") == os.devnull


def test_the_parent_needs_no_decoder_library() -> None:
    code = "import sys, pipelines.sandbox; sys.exit('av' in sys.modules or 'decord' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_child_that_dies_while_it_starts_is_started_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    started = 0

    def dies_first(limits: SandboxLimits, faults: Sequence[Fault]) -> ChildProcess:
        nonlocal started
        started += 1
        if started == 1:
            raise ChildDied("died of SIGKILL")
        return ChildProcess(limits, faults)

    monkeypatch.setattr(sandbox_module, "ChildProcess", dies_first)
    with Sandbox() as sandbox:
        assert verdicts(sandbox, library.path("h264.mp4")) == ["frames"] * 4
    assert started == 2
