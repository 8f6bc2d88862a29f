"""What vLLM's serving handlers take for their engine: the gate, in the clothes of a client."""

import itertools
from collections.abc import AsyncGenerator, Mapping
from copy import copy
from functools import partial
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.renderers.inputs.preprocess import extract_prompt_len
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from infer_daemon.domain.errors import NotSupported
from infer_daemon.domain.jobs import JobId
from infer_daemon.domain.record import CURRENT
from infer_daemon.engines.call import EngineCall
from infer_daemon.engines.contract import Work
from infer_daemon.engines.gate import Gate
from infer_daemon.engines.vllm.carrying import Payload, progress_of
from infer_daemon.engines.vllm.errors import GateRefusal

_numbers = itertools.count()


class GatedClient:
    """Has the members of vLLM's `EngineClient` that its handlers use.

    `generate` and `encode` go through the gate and may run on any engine of the pool; what a
    handler reads of the model comes from the engine that it was built for.
    """

    def __init__(self, llm: AsyncLLM, gate: Gate) -> None:
        self._llm = llm
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    @property
    def errored(self) -> bool:
        """Whether to refuse before rendering. The gate knows the whole pool, so: never."""
        return False

    @property
    def dead_error(self) -> BaseException:
        return EngineDeadError()

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Admission is the gate's."""

    def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        data_parallel_rank: int | None = None,
        **options: Any,
    ) -> EngineCall:
        """As `AsyncLLM.generate`. Priority and rank are the daemon's to choose and are dropped."""
        if isinstance(prompt, AsyncGenerator):
            raise NotSupported("streaming input is not supported")
        params = copy(sampling_params)
        params.output_kind = RequestOutputKind.DELTA
        salted = _salted(prompt)
        progress = progress_of(salted, params, options, self._llm)

        def capped(most: int) -> Payload:
            params.max_tokens = most
            params.min_tokens = min(params.min_tokens, most)
            return Payload(salted, params, options, progress)

        wants_deltas = sampling_params.output_kind == RequestOutputKind.DELTA
        return self._gate.run(
            Work(
                id=_job_id(request_id),
                payload=Payload(salted, params, options, progress),
                wants="deltas" if wants_deltas else "final",
                merge=_add_delta,
                prompt_tokens=extract_prompt_len(self._llm.model_config, prompt),
                output_tokens_max=params.max_tokens or 0,
                seqs=params.n,
                is_slow_to_check=params.structured_outputs is not None,
                cap=capped,
                progress=progress,
                as_refusal=GateRefusal,
            )
        )

    def encode(
        self,
        prompt: Any,
        pooling_params: PoolingParams,
        request_id: str,
        lora_request: LoRARequest | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
        tokenization_kwargs: dict[str, Any] | None = None,
        reasoning_ended: bool | None = None,
    ) -> EngineCall:
        """As `AsyncLLM.encode`."""
        options = {
            "lora_request": lora_request,
            "trace_headers": trace_headers,
            "tokenization_kwargs": tokenization_kwargs,
            "reasoning_ended": reasoning_ended,
        }
        return self._gate.run(
            Work(
                id=_job_id(request_id),
                payload=Payload(_salted(prompt), pooling_params, options),
                wants="final",
                merge=_keep_first,
                prompt_tokens=extract_prompt_len(self._llm.model_config, prompt),
                output_tokens_max=0,
                as_refusal=GateRefusal,
            )
        )

    async def abort(self, request_id: object) -> None:
        """Handlers abort by closing their generators; the gate does the rest."""


def _salted(prompt: Any) -> Any:
    """The prompt under its tenant's name in the prefix cache: a shared cache would tell one tenant,
    by how fast an answer comes, what another has asked."""
    record = CURRENT.get()
    if record is None or not isinstance(prompt, dict) or "prompt_token_ids" not in prompt:
        return prompt
    return {**prompt, "cache_salt": record.tenant}


def _job_id(request_id: str) -> JobId:
    # A handler may use one id for several calls (tool loops); the engine would abort them together.
    return JobId(f"{request_id}.{next(_numbers)}")


_add_delta = partial(RequestOutput.add, aggregate=True)


def _keep_first(first: Any, later: Any) -> None:
    """A pooling request has one output; a second could only be the echo of an abort."""
