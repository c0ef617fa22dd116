import pytest

from deployments.vision.budget import MemoryBudget, first_frames
from deployments.vision.engine import MemoryReading

GIB = 2**30


@pytest.mark.parametrize(
    ("free_gib", "frames"), [(1, 1), (7.9, 1), (8, 5), (15.9, 5), (16, 10), (23.9, 10), (24, 20), (140, 20)]
)
def test_an_unknown_device_begins_with_few_frames(free_gib: float, frames: int) -> None:
    assert first_frames(int(free_gib * GIB)) == frames
    budget = MemoryBudget(MemoryReading(int(free_gib * GIB), 0))
    assert budget.fits(10**9, frames=frames)
    assert not budget.fits(1, frames=frames + 1)


def test_without_a_bound_everything_fits() -> None:
    budget = MemoryBudget(None)
    budget.fitted(100, None)
    assert budget.fits(10**9, frames=10**6)


def test_the_budget_is_what_is_free_over_what_a_token_took_and_at_most_twice_what_has_fitted() -> None:
    budget = MemoryBudget(MemoryReading(10_000_000, 0))
    budget.fitted(100, MemoryReading(10_000_000, 200_000))
    assert budget.tokens == 200  # not the 4,500 that 2,000 bytes each would allow
    budget.fitted(200, MemoryReading(10_000_000, 300_000))
    assert budget.tokens == 400
    for tokens in (400, 800, 1600, 3200, 6400):
        budget.fitted(tokens, MemoryReading(10_000_000, 1500 * tokens))
    assert budget.tokens == 6000


def test_less_than_the_most_so_far_teaches_nothing_about_a_token() -> None:
    budget = MemoryBudget(MemoryReading(10_000_000, 0))
    budget.fitted(6000, MemoryReading(10_000_000, 6_000_000))
    budget.fitted(10, MemoryReading(10_000_000, 5_900_000))  # kept for later by the allocator
    assert budget.tokens == 9000


def test_memory_that_others_take_lowers_the_budget_and_comes_back() -> None:
    budget = MemoryBudget(MemoryReading(10_000_000, 0))
    budget.fitted(6000, MemoryReading(10_000_000, 6_000_000))
    budget.fitted(6000, MemoryReading(5_000_000, 6_000_000))
    assert budget.tokens == 4500
    budget.fitted(4500, MemoryReading(10_000_000, 4_500_000))
    assert budget.tokens == 9000


def test_running_out_lowers_the_budget_and_what_fits_again_and_again_raises_it_slowly() -> None:
    budget = MemoryBudget(MemoryReading(10_000_000, 0))
    budget.fitted(6000, MemoryReading(10_000_000, 6_000_000))
    budget.ran_out(8000)
    assert budget.tokens == 5600
    budget.fitted(5500, MemoryReading(10_000_000, 5_500_000))
    assert budget.tokens == 5600, "it held nothing back"
    assert not budget.fits(5700, frames=1)
    budget.fitted(5500, MemoryReading(10_000_000, 5_500_000))
    assert budget.tokens == 5880
    budget.fitted(100, MemoryReading(10_000_000, 5_500_000))
    assert budget.tokens == 5880
    budget.ran_out(5880)
    assert budget.tokens == 4116


@pytest.mark.parametrize("ran_out_clips", [1, 2, 4, 8, 12])
def test_a_limit_found_once_is_forgotten_in_time_however_large_the_clips_are(ran_out_clips: int) -> None:
    clip_tokens, reading = 500, MemoryReading(10_000_000, 1000 * 12 * 500)
    budget = MemoryBudget(reading)
    budget.fitted(12 * clip_tokens, reading)

    def start() -> int:
        clips = 1
        while clips < 12 and budget.fits((clips + 1) * clip_tokens, frames=clips + 1):
            clips += 1
        budget.fitted(clips * clip_tokens, reading)
        return clips

    budget.ran_out(ran_out_clips * clip_tokens)
    assert start() < 12
    assert max(start() for _ in range(60)) == 12


def test_what_was_kept_for_many_is_not_counted_as_what_few_take() -> None:
    budget = MemoryBudget(MemoryReading(10_000_000, 0))
    budget.fitted(6000, MemoryReading(10_000_000, 6_000_000))
    budget.fitted(400, MemoryReading(10_000_000, 6_300_000))  # the cache of 6000, and more to read than ever at once
    assert budget.tokens == 8571


def test_running_out_before_anything_is_known_bounds_the_tokens_beside_the_frames() -> None:
    budget = MemoryBudget(MemoryReading(30 * GIB, 0))
    budget.ran_out(10_000)
    assert budget.fits(7_000, frames=20)
    assert not budget.fits(7_001, frames=20)
    assert not budget.fits(7_000, frames=21)
