"""The daemon as it ships, with tenants of a bench's own that keep it full: where `fairness` and
`priority` measure."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from infer_daemon.bench import demo, launches
from infer_daemon.bench.crowd import Crowd, Sample
from infer_daemon.bench.generator import Generator, Loads
from infer_daemon.bench.run import Run
from infer_daemon.bench.servers import Server, running

STEADY_TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """A daemon that runs, and ways to put loads on it."""

    run: Run
    server: Server
    loads: Loads
    keys: Mapping[str, str] = field(repr=False)
    """Of its tenants, by name."""

    @contextmanager
    def full(
        self, crowds: list[Crowd], is_steady: Callable[[Sample], bool], *, seed: int
    ) -> Iterator[tuple[Generator, float]]:
        """Within this block, these crowds at work, and since when they have been in full swing.
        `loads.end` the generator there."""
        time.sleep(self.run.settle_s)
        with self.loads.at_work(crowds, seed=seed) as load:
            yield load, load.wait(is_steady, STEADY_TIMEOUT_S, "get steady").at_s


@contextmanager
def arena(
    run: Run, tenants: Mapping[str, Mapping[str, Any]], problems: list[str]
) -> Iterator[Arena]:
    """Start the daemon with these tenants, and end it after the block.

    Args:
        problems: is given every request that was not answered as it must be, in words.

    Raises:
        ServerProblem: it does not start.
    """
    setup = demo.write(run.folder, "daemon", run.kind, demo.Plan(tenants=tenants))
    run.say("the daemon")
    with running(launches.daemon(setup.config, setup.state_dir)) as server:
        loads = Loads(server, next(iter(setup.keys.values())), problems)
        yield Arena(run=run, server=server, loads=loads, keys=setup.keys)


def places_changed_hands(sample: Sample) -> bool:
    """Whether each place in the window has been given up by whoever had it first."""
    return sum(had.done for had in sample.crowds.values()) >= demo.WINDOW_SEQS
