"""One `AsyncLLM` from start to stop."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.lora.request import LoRARequest
from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.stats import SchedulerStats

from infer_daemon.domain.errors import DaemonError, EngineDied, EngineFault, ModelNotReady
from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.engines.contract import EngineFacts, EngineStartError, EngineStats, Sink, Work
from infer_daemon.engines.gate import Gate
from infer_daemon.engines.vllm import arguments, environment, errors
from infer_daemon.engines.vllm.carrying import Payload, add, keep_states
from infer_daemon.engines.vllm.causes import CAUSE_ENV, last_line, take_cause
from infer_daemon.engines.vllm.client import GatedClient
from infer_daemon.engines.vllm.detokenizing import start_at_the_end_of_the_prompt
from infer_daemon.engines.vllm.features import features
from infer_daemon.engines.vllm.frontend import VllmFrontend
from infer_daemon.engines.vllm.outputs import hand_on
from infer_daemon.engines.vllm.processes import Processes
from infer_daemon.engines.vllm.rendering import render_inputs_in_turn, take_turns
from infer_daemon.engines.vllm.responses import write_in_pieces
from infer_daemon.engines.vllm.sockets import close_sockets
from infer_daemon.engines.vllm.speed import timed_steps
from infer_daemon.engines.vllm.stats import stat_logger
from infer_daemon.engines.vllm.validation import GrammarCheck
from infer_daemon.engines.vllm.warmup import warm_up
from infer_daemon.settings.schema import EngineSection

log = structlog.get_logger()

STOP_TIMEOUT_S = 15.0
SOCKETS_TIMEOUT_S = 5.0
"""For the end of threads that have nothing to do any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSpec:
    """What an engine is to be."""

    name: EngineName
    section: EngineSection
    served_names: list[str]
    """Public names of the base model."""
    loras: Mapping[str, str]
    """Public name -> folder, in an order that is the same for every engine of the pool: vLLM knows
    adapters by number, and a rendered request may run on any of them."""
    child_env: Mapping[str, str]
    media_hosts: Sequence[str] = ()


class VllmEngine:
    """Implements `contract.Engine` on vLLM.

    vLLM starts its processes from the calling thread, and the kernel ties a child's parent-death
    signal to that thread: so each engine has a thread of its own that lives as long as it does.
    """

    def __init__(self, spec: VllmSpec, gate: Gate, registry: CollectorRegistry) -> None:
        self._spec = spec
        self._gate = gate
        self._registry = registry
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{spec.name}")
        self._grammars = GrammarCheck(spec.name)
        self._llm: AsyncLLM | None = None
        self._frontend: VllmFrontend | None = None
        self._end: asyncio.Task[None] | None = None
        self.stats = EngineStats()
        self.steps = 0
        self._cause_file = environment.new_file("cause")
        self._processes = Processes()
        self._loras: frozenset[str] = frozenset()

    @property
    def name(self) -> EngineName:
        return self._spec.name

    @property
    def frontend(self) -> VllmFrontend:
        assert self._frontend is not None, "the engine has not been started"
        return self._frontend

    @property
    def pid(self) -> int | None:
        return self._processes.pid

    @property
    def in_flight(self) -> int:
        llm = self._llm
        return 0 if llm is None else int(llm.output_processor.get_num_unfinished_requests())

    async def start(self, progress: Callable[[str], None]) -> EngineFacts:
        """See `contract.Engine.start`."""
        loop = asyncio.get_running_loop()
        try:
            progress("reading the model's configuration")
            args = await loop.run_in_executor(self._thread, self._arguments)
            progress("starting processes, loading weights")
            llm = await loop.run_in_executor(self._thread, self._build, args)
            tasks = await llm.get_supported_tasks()
            loras, lora_errors = await self._load_loras(llm, progress)
            progress("building handlers")
            known = features(args, llm.model_config, tasks)
            state = State()
            await init_app_state(GatedClient(llm, self._gate), state, args, tasks)
            state.openai_serving_models.lora_requests.update(loras)
            await loop.run_in_executor(self._thread, take_turns, llm.renderer, self.name)
            handlers = list(vars(state)["_state"].values())
            render_inputs_in_turn(handlers)
            write_in_pieces(handlers)
            start_at_the_end_of_the_prompt()
            keep_states(llm.output_processor)
            await warm_up(llm, tasks, loras.values(), progress)
            progress("timing steps")
            steps = await timed_steps(llm, tasks)
            self._processes.find_workers()
            self._loras = frozenset(loras)
            self._frontend = VllmFrontend(state, tasks)
        except arguments.ArgumentProblem as error:
            raise EngineStartError(str(error), is_final=True) from error
        except Exception as error:
            # What its processes complained of later did not keep them from starting.
            cause = take_cause(self._cause_file) if self._llm is None else ""
            why = cause or f"{type(error).__name__}: {last_line(error)}"
            raise EngineStartError(why) from error
        return EngineFacts(
            max_model_len=llm.model_config.max_model_len,
            seqs_max=llm.vllm_config.scheduler_config.max_num_seqs,
            kv_tokens=_kv_tokens(llm, tasks),
            kv_block_tokens=llm.vllm_config.cache_config.block_size or 1,
            step_tokens=llm.vllm_config.scheduler_config.max_num_batched_tokens,
            prompt_step_tokens=llm.vllm_config.scheduler_config.long_prefill_token_threshold
            or None,
            steps=steps,
            loras=self._loras,
            lora_errors=lora_errors,
            features=known,
        )

    def _arguments(self) -> Any:
        spec = self._spec
        return arguments.namespace(
            spec.section,
            spec.served_names,
            loras=len(spec.loras),
            media_hosts=spec.media_hosts,
        )

    def _build(self, args: Any) -> AsyncLLM:
        """Runs in the engine's own thread and blocks it until the engine answers."""
        engine_args = AsyncEngineArgs.from_cli_args(args)
        env = {**self._spec.child_env, CAUSE_ENV: str(self._cause_file)}
        with environment.children_of(self._spec.name, env, self._processes.began):
            # Kept here and not where it is awaited: a cancelled start must find it to stop it.
            self._llm = AsyncLLM.from_engine_args(
                engine_args,
                usage_context=UsageContext.OPENAI_API_SERVER,
                stat_loggers=[stat_logger(self._registry, self._on_stats)],
            )
        return self._llm

    def kill(self) -> None:
        """See `contract.Engine.kill`."""
        self._processes.kill()

    def _on_stats(self, stats: SchedulerStats) -> None:
        """Told after every step, also of those that gave nobody an output."""
        self.steps += 1
        cache = stats.prefix_cache_stats
        self.stats = EngineStats(
            running=stats.num_running_reqs,
            waiting=stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
            kv_usage=stats.kv_cache_usage,
            prefix_queries=self.stats.prefix_queries + cache.queries,
            prefix_hits=self.stats.prefix_hits + cache.hits,
        )

    async def _load_loras(
        self, llm: AsyncLLM, progress: Callable[[str], None]
    ) -> tuple[dict[str, LoRARequest], dict[str, str]]:
        """Load each adapter by itself: one that fails here fails alone. Given to `generate`
        unloaded, a broken adapter would kill the engine."""
        loaded: dict[str, LoRARequest] = {}
        errors: dict[str, str] = {}
        for number, (name, folder) in enumerate(self._spec.loras.items(), start=1):
            progress(f"loading adapter {name}")
            try:
                request = LoRARequest(name, number, arguments.model_path(folder))
                await llm.add_lora(request)
            except EngineDeadError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, only this adapter fails
                errors[name] = f"the adapter {folder} cannot be loaded: {last_line(error)}"
            else:
                loaded[name] = request
        return loaded, errors

    async def stop(self) -> None:
        """See `contract.Engine.stop`."""
        if self._end is None:
            self._end = asyncio.create_task(self._stop(), name=f"stop-{self.name}")
        await asyncio.shield(self._end)

    async def _stop(self) -> None:
        self._processes.end()
        if self._llm is None:
            # Still loading: nothing but the end of its process makes the thread return.
            self.kill()
        else:
            # Shut down, vLLM forgets its requests without a word to whoever waits for them.
            self._llm.output_processor.propagate_error(EngineDeadError())
        llm = self._llm
        try:
            await self._in_thread(self._shut_down, 2 * STOP_TIMEOUT_S)
            if llm is not None and (end_context := await close_sockets(llm.engine_core)):
                await self._in_thread(end_context, SOCKETS_TIMEOUT_S)
        except TimeoutError:
            log.error("engine_thread_hangs", engine=self.name)
        self.kill()
        await asyncio.to_thread(self._processes.close)  # its own thread may hang
        self._thread.shutdown(wait=False)
        self._grammars.close()

    async def _in_thread(self, do: Callable[[], None], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().run_in_executor(self._thread, do)

    def _shut_down(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown(STOP_TIMEOUT_S)

    async def died(self) -> str:
        """See `contract.Engine.died`."""
        return await self._processes.first_exit()

    async def check(self, work: Work) -> None:
        """See `contract.Engine.check`."""
        llm = self._llm
        if llm is None:
            return
        try:
            await self._grammars.check(work.payload.params, llm.vllm_config, llm.tokenizer)
        except DaemonError:
            raise
        except Exception as error:
            raise errors.from_exception(error) from error

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine.submit`."""
        llm = self._llm
        if llm is None or llm.errored:
            self.kill()  # errored with its processes alive, nobody would see that it is dead
            raise EngineDied(retry_after_s=10)
        payload: Payload = work.payload
        lora = payload.options.get("lora_request")
        if lora is not None and lora.lora_name not in self._loras:
            # It would be loaded now, and what made that fail before would kill the engine.
            why = f"engine {self.name} does not have the adapter {lora.lora_name}"
            raise ModelNotReady(why, retry_after_s=10)
        progress = payload.progress

        def put(output: RequestOutput | PoolingRequestOutput[Any] | Exception) -> None:
            try:
                hand_on(sink, output, progress)
            except Exception as error:
                log.exception("output_failed", engine=self.name, job=work.id)
                sink.fail(EngineFault() if not isinstance(error, DaemonError) else error)

        try:
            async for collector in add(llm, work.id, payload):
                # No await between the return of add_request and this line, but outputs may have
                # come in while it awaited: they are in the collector's slot.
                collector.put = put
                if collector.output is not None:
                    put(collector.output)
        except EngineDeadError as error:
            raise EngineDied(retry_after_s=10) from error
        except DaemonError:
            raise
        except Exception as error:
            # Told as a refusal: a stream's handler would log a traceback for each bad parameter.
            raise errors.from_exception(error) from error
        if progress is not None and payload.step is not None:
            for index, reason in payload.step.endings.items():
                put(progress.ending(index, reason))

    async def abort(self, work_id: JobId) -> None:
        """See `contract.Engine.abort`. By the external id, which covers a call that was cancelled
        inside `add_request`, where nobody knows the internal one. Of a call that goes on elsewhere
        vLLM has no state any more, but its engine may have the request."""
        llm = self._llm
        if llm is not None and not llm.errored:
            processor = llm.output_processor
            ids = processor.external_req_ids.get(work_id, ())
            left = [one for one in ids if one not in processor.request_states]
            await llm.abort(work_id)
            if left:
                await llm.engine_core.abort_requests_async(left)


def _kv_tokens(llm: AsyncLLM, tasks: Iterable[str]) -> int | None:
    """Tokens that the KV cache holds, as EngineCore has reported them after it was allocated."""
    cache = llm.vllm_config.cache_config
    if "generate" not in tasks or not cache.num_gpu_blocks:
        return None
    return int(cache.num_gpu_blocks) * int(cache.block_size)
