"""What is scheduled, and when: clocks that are put forward or back change nothing."""

import asyncio
import datetime
import itertools

import pytest
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.server.schemas.schedules import CronSchedule

from flows.automations import silent_flows_have_crashed
from flows.deployments import deployments
from flows.environment import QUIET

SERVED = {each.name: each for each in deployments("15 3 * * *", "smoke")}


@pytest.mark.parametrize(
    "start", ["2026-03-27", "2026-10-23"], ids=["into summer time", "out of summer time"]
)
def test_the_nightly_run_comes_once_a_day_when_clocks_change(start: str) -> None:
    own = SERVED["nightly"].schedules[0].schedule
    schedule = CronSchedule(cron=own.cron, timezone=own.timezone)
    begin = datetime.datetime.fromisoformat(f"{start}T00:00:00+00:00")
    dates = asyncio.run(schedule.get_dates(6, start=begin))
    assert [date.isoformat()[11:16] for date in dates] == ["03:15"] * 6
    seconds = [date.timestamp() for date in dates]
    assert {later - date for date, later in itertools.pairwise(seconds)} == {24 * 3600.0}


@pytest.mark.parametrize("name", ["nightly", "corpus"])
def test_a_scheduled_run_that_overlaps_is_cancelled_not_queued(name: str) -> None:
    assert SERVED[name].concurrency_limit == 1
    options = SERVED[name].concurrency_options
    assert options.collision_strategy == ConcurrencyLimitStrategy.CANCEL_NEW


def test_silence_is_three_heartbeats_of_ours() -> None:
    trigger = silent_flows_have_crashed().model_dump(mode="json")["trigger"]
    assert trigger["within"] == 3 * int(QUIET["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
