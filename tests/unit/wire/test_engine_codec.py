from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.core.ids import Epoch, Seq, Slot
from cluster.core.plan import Step, StepResult, StepTimes
from cluster.wire.codec import result_from, result_to, step_from, step_to

STEP = Step(Epoch(1), Seq(2), decode=(Slot(3),), iterations=4)
RESULT = StepResult(Epoch(1), Seq(2), digest=7)
TIMES = StepTimes(10.0, 13.0, decode=(10.5, 11.0), chunks=((11.0, 12.0), (12.0, 12.75)))


@pytest.mark.parametrize("timed", [False, True])
def test_a_step_says_whether_it_is_timed(timed: bool) -> None:
    step = replace(STEP, timed=timed)
    assert step_from(step_to(step)) == step


@pytest.mark.parametrize(
    "times", [None, TIMES, replace(TIMES, decode=None), replace(TIMES, chunks=())]
)
def test_times_travel_and_get_the_time_at_which_they_arrived(times: StepTimes | None) -> None:
    came = result_from(result_to(replace(RESULT, times=times)), arrived=99.0)
    expected = None if times is None else replace(times, arrived=99.0)
    assert came == replace(RESULT, times=expected)


@pytest.mark.parametrize("speed", [None, 4.5e11])
def test_most_results_do_not_say_how_fast_weights_are_read(speed: float | None) -> None:
    result = replace(RESULT, read_bytes_per_second=speed)
    assert result_from(result_to(result)) == result
