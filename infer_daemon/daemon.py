"""The composition root: builds every part in order, runs them, and takes them down in reverse."""

import asyncio
import gc
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry

from infer_daemon import __version__, notify
from infer_daemon.admission.admission import Admission
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.doors import Doors
from infer_daemon.ending import Ending
from infer_daemon.engines import leftovers
from infer_daemon.engines.anomalies import Anomaly
from infer_daemon.engines.fleet import Fleet, PoolPlan
from infer_daemon.engines.health import Health, breaker_policy, retry_policy
from infer_daemon.engines.judging import Judge
from infer_daemon.engines.pool import Pool
from infer_daemon.engines.supervisor import Status
from infer_daemon.examples import DEMO_KEY, examples
from infer_daemon.falling_back import StandIns
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.ledger.book import Book
from infer_daemon.ledger.device_book import DeviceBook
from infer_daemon.ledger.exposition import VendorCollector
from infer_daemon.ledger.feedback import FeedbackDesk
from infer_daemon.ledger.logs import choose_format
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.recorder import Recorder
from infer_daemon.ledger.refusals import DoorRefusals
from infer_daemon.ledger.reports.desk import Desk
from infer_daemon.ledger.stopwatch import Stopwatch, placement
from infer_daemon.ledger.store import DATABASE
from infer_daemon.live import Live, Source, budgets, policy, prices, stage_limits, windows
from infer_daemon.request_path import RequestPath
from infer_daemon.routing.catalog import Catalog
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.settings.load import SettingsError
from infer_daemon.settings.schema import Settings
from infer_daemon.settings.state_folder import StateFolder
from infer_daemon.tenancy.registry import Registry
from infer_daemon.view import View

if TYPE_CHECKING:
    from infer_daemon.engines.vllm.factory import VllmFactory

log = structlog.get_logger()

ENDING = (signal.SIGTERM, signal.SIGINT)
LAG_PROBE_S = 0.1
QUIET_REQUESTS_MAX = 4
"""In flight at the same time, while old rows are deleted beside them."""


class Daemon:
    """One running daemon. Build it inside its event loop and `await run()` once."""

    def __init__(
        self,
        settings: Settings,
        folder: StateFolder,
        source: Source | None = None,
    ) -> None:
        """Args:
        folder: must be locked by the caller for as long as the daemon runs.
        source: what a reload reads again.
        """
        self._settings = settings
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._reload_wanted = asyncio.Event()
        # Leaves first: each part is given the ones above it.
        self.metrics = Metrics()
        self.vendor = VendorCollector(self._is_ready)
        # The loop's own clock, but not rounded to the milliseconds that uvloop keeps.
        self.stopwatch = Stopwatch(placement(settings))
        self.recorder = Recorder(self.metrics, time.monotonic, self.stopwatch)
        self.book = Book(
            folder.root,
            settings.ledger,
            loop=self._loop,
            on_commit=self.metrics.on_commit,
        )
        self.desk = Desk(folder.root / DATABASE)
        self.metrics.watch_ledger(
            lambda: self.book.health.state == "ok", lambda: self.book.health.waiting
        )
        self.feedback = FeedbackDesk(self.book, self.metrics)
        self.allowances = Allowances(budgets(settings), prices(settings), _wall_us)
        self.device_book = DeviceBook(self.stopwatch, self.book)
        self.tenants = Registry(settings.tenants)
        self.catalog = Catalog.from_settings(settings)
        self.schedulers = {name: Scheduler(policy(settings)) for name in self.catalog.pools}
        self.admission = Admission(settings, self.schedulers, self.allowances, time.monotonic)
        self.health = Health(
            breaker_policy(settings.breaker), retry_policy(settings.breaker), self.metrics
        )
        self.judge = Judge(self.metrics, self._on_flagged)
        self.pools = {
            name: Pool(
                name,
                scheduler,
                self.metrics,
                self.stopwatch,
                self.admission,
                judge=self.judge,
                windows=windows(settings),
                fanout_max=settings.scheduling.fanout_max,
                health=self.health,
            )
            for name, scheduler in self.schedulers.items()
        }
        for pool in self.pools.values():
            pool.gate.limit_stages(stage_limits(settings))
        self.fleet = Fleet(settings.engines, self._plans(), self._registry_of, self._on_engine)
        self.path = RequestPath(
            tenants=self.tenants,
            catalog=self.catalog,
            admission=self.admission,
            pools=self.pools,
            schedulers=self.schedulers,
            recorder=self.recorder,
            comment_after_s=settings.scheduling.comment_after_s,
            allowances=self.allowances,
            stand_ins=StandIns(settings, self.catalog, self.pools),
            book=self.book,
        )
        self.ending = Ending(
            self.path, self.pools.values(), self.fleet, settings.daemon.drain_timeout_s
        )
        self.live = Live(settings, self, source)
        self.view = View(self)
        self.doors = Doors(settings, folder, DoorRefusals(self.metrics))

    def _plans(self) -> list[PoolPlan]:
        return [
            PoolPlan(
                pool=self.pools[name],
                engines=[EngineName(e) for e in self._settings.models[models[0].model].engines],
                served_names=[m.model for m in models if not m.lora] or [name],
                loras={m.model: m.lora for m in models if m.lora},
            )
            for name, models in self.catalog.pools.items()
        ]

    def _is_ready(self, engine: str) -> bool:
        statuses = (pool.statuses.get(EngineName(engine)) for pool in self.pools.values())
        return any(status and status.state.runs_work for status in statuses)

    def _registry_of(self, engine: EngineName) -> CollectorRegistry:
        registry = CollectorRegistry()
        self.vendor.add(engine, registry)
        return registry

    def _on_engine(self, name: EngineName, status: Status) -> None:
        """What becomes of an engine is what its devices' time goes into."""
        if status.state is EngineState.READY and (facts := status.facts) is not None:
            self.stopwatch.weigh(name, facts.steps, facts.step_tokens)
            if status.restarts:
                # What is left of the engine before it is megabytes in circles, for which the
                # collector would not come of itself for long. Once the new one has its place.
                self._loop.call_soon(gc.collect)
        self.stopwatch.change(name, status.state)

    def _on_flagged(self, model: str, kind: Anomaly) -> None:
        """Too many of a model's answers look wrong; its metric and its line in the log say so.
        Where that is wanted its engines are left alone for a while: another model may stand in."""
        if self._settings.models[model].anomaly_policy == "breaker":
            pool = self.pools[self.catalog.route(model).pool]
            for engine in list(pool.facts):
                self.health.trip(engine, "anomaly", f"too many answers of {model} are {kind}")

    async def run(self, *, show_examples: bool = False) -> None:
        """Serve until told to stop.

        Raises:
            AddressInUse: a listener's place is taken; nothing was started.
            LedgerProblem: what requests cost could not be written down; nothing was started.
        """
        for number in ENDING:
            self._loop.add_signal_handler(number, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        self._loop.set_exception_handler(_on_loop_exception)
        log.info("daemon_starting", version=__version__, state_dir=str(self._folder.root))
        if ended := leftovers.end(self._folder.root):
            log.warning("leftovers_ended", pids=ended)
        await self.book.start()
        try:
            self.allowances.load(await self.book.spent(_wall_us()))
            await self.device_book.start()
            await self._serve(show_examples=show_examples)
        finally:
            await self.device_book.close()
            await self.book.close()
            for number in (*ENDING, signal.SIGHUP):
                self._loop.remove_signal_handler(number)
            log.info("daemon_stopped")

    async def _serve(self, *, show_examples: bool) -> None:
        """With the ledger open: from the first request to the last."""
        await self.doors.open(self.path, self.view)
        notify.tell("READY=1\nSTATUS=the door is open, engines are loading")
        tasks = [
            asyncio.create_task(self.ending.wanted(), name="stop"),
            asyncio.create_task(self._watch_loop_lag(), name="loop-lag"),
            asyncio.create_task(self._feed_watchdog(), name="watchdog"),
            asyncio.create_task(self.book.prune(self._is_quiet), name="prune"),
            asyncio.create_task(self.device_book.run(), name="devices"),
            asyncio.create_task(self._reload_when_told(), name="reload"),
            asyncio.create_task(self.fleet.run(self._load_vendor), name="fleet"),
            asyncio.create_task(self._announce(show_examples=show_examples), name="announce"),
        ]
        try:
            await _first_end(tasks)
            await self.ending.drain()
        finally:
            await _cancel(tasks)
            await self.doors.close()
            await self.ending.end_engines()
        _raise_failure(tasks)

    def stop(self) -> None:
        """Begin to drain; called again, end at once."""
        self.ending.ask()

    async def _reload_when_told(self) -> None:
        """On SIGHUP. A bad file has been logged and changes nothing."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            with suppress(SettingsError):
                await self.live.reload()

    def _is_quiet(self) -> bool:
        return self.path.in_flight <= QUIET_REQUESTS_MAX

    def _load_vendor(self) -> "VllmFactory":
        # vLLM reads its configuration from the environment in which it is imported.
        from infer_daemon.engines.vllm import environment

        section = self._settings.daemon
        engines = {name: e for name, e in self._settings.engines.items() if e.kind == "vllm"}
        environment.prepare(
            self._folder.runtime,
            self._folder.root,
            log_level=section.engine_log_level,
            log_format=choose_format(section.log_format),
            offline=all(engine.is_local for engine in engines.values()),
        )
        gc.disable()  # a tenth faster: there is nothing to collect in modules
        try:
            from infer_daemon.engines.vllm.factory import VllmFactory
        finally:
            gc.enable()
        return VllmFactory(engines, self._settings.listen.media_hosts)

    async def _announce(self, *, show_examples: bool) -> None:
        """Say once, when the last engine has settled, how the start went; then only wait."""
        await self.fleet.settled()
        if any(engine.kind == "vllm" for engine in self._settings.engines.values()):
            from infer_daemon.engines.vllm import environment

            environment.keep()
        # Everything that lives as long as the process is there now. Left in the collector's reach,
        # it is walked again and again: tens of milliseconds each time, in which no stream moves.
        gc.collect()
        gc.freeze()
        ready, body = self.view.readiness()
        notify.tell(f"STATUS={body['status']}")
        (log.info if ready else log.error)("daemon_ready" if ready else "daemon_not_ready", **body)
        if ready and show_examples:
            socket = str(self._folder.api_socket(self._settings) or "")
            model = next(iter(self._settings.models))
            key = DEMO_KEY if self.tenants.knows(DEMO_KEY) else "YOUR_KEY"
            print(examples(self.doors.url, socket, model, key), file=sys.stderr, flush=True)  # noqa: T201
        await asyncio.Event().wait()

    async def _watch_loop_lag(self) -> None:
        """Measure how late the loop is: what every request on it waits besides its own work."""
        while True:
            due_s = self._loop.time() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            self.metrics.loop_lag.observe(max(0.0, self._loop.time() - due_s))

    async def _feed_watchdog(self) -> None:
        """Tell the service manager that this loop still turns."""
        interval_s = notify.watchdog_interval_s()
        while interval_s is not None:
            notify.tell("WATCHDOG=1")
            await asyncio.sleep(interval_s)
        await asyncio.Event().wait()


def _wall_us() -> int:
    return time.time_ns() // 1000


def _on_loop_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio would print. A request's handler may leave several refusals unread: told once,
    they are no news."""
    error = context.get("exception")
    if not getattr(error, "is_refusal", False):
        log.error("loop_exception", what=context.get("message"), exc_info=error)


async def _first_end(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the first task to end. Only the stop event may; another has failed."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        if (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)


def _raise_failure(tasks: list[asyncio.Task[None]]) -> None:
    """After an orderly end, what made it necessary: an exit code of 0 would hide it."""
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
