"""What devices' hours go into, through everything but the sockets, on virtual time: every second is
on one line, and what requests used is what devices gave."""

import asyncio
import random
from contextlib import suppress

import pytest

from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.devices import Line
from infer_daemon.ledger.pricing import HOUR_NS
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime(noop_cycles=5)

ENGINES = "".join(
    f'[engines.{name}]\nkind = "sim"\nmodel = "echo"\ndevices = {devices}\n'
    f"sim = {{ step_ms = 250 }}\n[models.{name}]\nengines = ['{name}']\n"
    for name, devices in {"alone": [0], "wide": [1, 2], "one": [], "other": []}.items()
)
PRICES = {"gpu-0": 2.0, "gpu-1": 3.0, "gpu-2": 3.0, "cpu": 0.25}
DEVICES = "".join(f"[devices.{name}]\nusd_per_hour = {usd}\n" for name, usd in PRICES.items())
MODELS = ("alone", "wide", "one", "other")


class Costs:
    """Requests on three engines and three devices, and what becomes of both."""

    def __init__(self, inside: Inside) -> None:
        self.inside = inside
        self.records: list[RequestRecord] = []
        settle = inside.stopwatch.settle

        def kept(record: RequestRecord) -> None:
            settle(record)
            self.records.append(record)

        inside.stopwatch.settle = kept  # type: ignore[method-assign]

    def lines(self, device: str) -> dict[Line, int]:
        """Of all engines on it, in nanoseconds."""
        self.inside.stopwatch.refresh()
        sums = dict.fromkeys(Line, 0)
        for (one, _), lines in self.inside.stopwatch.totals.items():
            for line, ns in lines.items():
                sums[line] += ns if one.name == device else 0
        return sums

    def assert_conserved(self) -> None:
        """All is on one line, and the lines of requests are what requests used."""
        now_ns = round(asyncio.get_running_loop().time() * 1e9)
        used_ns = wasted_ns = nano_usd = 0
        for device in PRICES:
            lines = self.lines(device)
            assert sum(lines.values()) == now_ns - self.began_ns
            used_ns += lines[Line.ATTRIBUTED] + lines[Line.WASTE]
            wasted_ns += lines[Line.WASTE]
        for (device, _), lines in self.inside.stopwatch.totals.items():
            busy_ns = lines[Line.ATTRIBUTED] + lines[Line.WASTE]
            nano_usd += busy_ns * device.price_nano_usd_per_hour // HOUR_NS
        assert sum(record.compute_ns for record in self.records) == used_ns
        assert sum(record.waste_ns for record in self.records) == wasted_ns
        # Each of them is rounded by itself.
        assert sum(record.compute_nano_usd for record in self.records) == pytest.approx(
            nano_usd, abs=2 * len(self.records) + 10
        )

    began_ns = 0

    async def ask(self, model: str, tokens: int, prompt: int = 5, *, leave_s: float = 0.0) -> None:
        """One request. Args: leave_s: when its client goes; 0 for one that stays."""
        fields = {"model": model, "prompt": "w " * prompt, "max_tokens": tokens}
        asking = self.inside.whole(**fields, ignore_eos=True)
        with suppress(DaemonError, TimeoutError):
            async with asyncio.timeout(leave_s or None):
                await asking

    async def saturate(self, model: str, seconds: float) -> None:
        """Three clients that always have another."""
        end_s = asyncio.get_running_loop().time() + seconds

        async def client() -> None:
            while asyncio.get_running_loop().time() < end_s:
                await self.ask(model, 400)

        await asyncio.gather(*(client() for _ in range(3)))


def made(settings_of: MakeSettings) -> Costs:
    """To be called inside a test: before it, time is not virtual yet."""
    return Costs(Inside(settings_of(ENGINES + DEVICES)))


async def test_a_device_that_always_has_work_is_attributed_to_whom_it_works_for(
    settings_of: MakeSettings,
) -> None:
    costs = made(settings_of)
    async with costs.inside.running():
        costs.began_ns = round(asyncio.get_running_loop().time() * 1e9)
        await costs.saturate("alone", 4500)
        lines = costs.lines("gpu-0")
        costs.assert_conserved()

    assert lines[Line.ATTRIBUTED] >= 0.95 * sum(lines.values())


async def test_a_device_that_nobody_asks_is_idle(settings_of: MakeSettings) -> None:
    costs = made(settings_of)
    async with costs.inside.running():
        for _ in range(3):
            await asyncio.sleep(1200)
            await costs.ask("alone", 20)
        lines = costs.lines("gpu-0")
        costs.assert_conserved()

    assert lines[Line.IDLE] >= 0.98 * sum(lines.values())


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost_whatever_happens_to_requests_and_engines(
    settings_of: MakeSettings, seed: int
) -> None:
    costs = made(settings_of)
    chance = random.Random(seed)
    async with costs.inside.running():
        asking = []
        for number in range(60):
            leave_s = chance.choice([0.0, 0.0, 0.1, 3.0, 30.0])
            asking.append(
                asyncio.create_task(
                    costs.ask(chance.choice(MODELS), chance.choice([1, 9, 300]), leave_s=leave_s)
                )
            )
            await asyncio.sleep(chance.choice([0, 0.01, 7, 400]))
            if number % 20 == 19:
                name = chance.choice(MODELS)
                costs.inside.kill(name)
                await asyncio.sleep(chance.choice([0.01, 900]))
                await costs.inside.start(name)
        await asyncio.gather(*asking)
        costs.assert_conserved()
