"""One answer made by several engines: what vLLM knows of a generation, carried to the next.

vLLM turns tokens into text in the daemon's own process, which outlives the engine: there is one
detokeniser for all legs of an answer, so that characters, stop strings and sums of logprobs that
straddle a cut come out as if there were none.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import (
    OutputProcessor,
    RequestOutputCollector,
    RequestState,
)

from infer_daemon.domain.jobs import JobId
from infer_daemon.engines.continuing import Continue, Counting, Generated, Leg, Sampling, Target
from infer_daemon.engines.contract import Ended
from infer_daemon.engines.vllm.kept import KEPT

_CARRIED = (
    "request_index",
    "prompt",
    "prompt_token_ids",
    "detokenizer",
    "logprobs_processor",
    "sent_tokens_offset",
    "sampling_mask_chunks",
    "routed_experts_chunks",
    "weight_version_starts",
)
"""What a request state has of the answer, and not of the engine."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What `AsyncLLM.add_request` needs besides an id."""

    prompt: Any
    params: SamplingParams | PoolingParams
    options: Mapping[str, Any]
    progress: "VllmProgress | None" = None
    step: Continue | None = None
    """How to go on with what `progress` has; None to begin."""


@dataclass(slots=True)
class VllmProgress:
    """Implements `contract.Progress`."""

    prompt: Mapping[str, Any]
    params: SamplingParams
    options: Mapping[str, Any]
    target: Target
    thinks: bool = False
    """Whether the model thinks aloud before it answers."""
    finished: dict[int, str] = field(default_factory=dict)
    """Index of each sequence that has ended -> its finish reason."""
    _states: dict[int, RequestState] = field(default_factory=dict)
    _processor: OutputProcessor | None = None

    @property
    def is_finished(self) -> bool:
        """Whether every sequence has ended."""
        return len(self.finished) == self.params.n

    @property
    def prompt_token_ids(self) -> Sequence[int]:
        """See `contract.Progress`."""
        ids: Sequence[int] = self.prompt["prompt_token_ids"]
        return ids

    @property
    def sampling(self) -> Sampling:
        """See `contract.Progress`."""
        params = self.params
        room = self.target.context_tokens - len(self.prompt_token_ids)
        return Sampling(
            max_tokens=room if params.max_tokens is None else params.max_tokens,
            min_tokens=params.min_tokens,
            n=params.n,
            seed=params.seed,
            is_greedy=params.temperature == 0,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            logit_bias=params.logit_bias or {},
            has_grammar=params.structured_outputs is not None,
            has_long_bad_words=bool(params.bad_words),
        )

    def detach(self) -> None:
        """See `contract.Progress`. An engine that was killed may have sent more than was read."""
        if self._processor is not None:
            for state in self._states.values():
                self._processor.request_states.pop(state.request_id, None)

    def sequences(self) -> list[Generated]:
        """See `contract.Progress`."""
        return [
            Generated(
                index=index,
                token_ids=tuple(state.detokenizer.output_token_ids),
                is_finished=index in self.finished,
            )
            for index, state in sorted(self._states.items())
            if state.detokenizer is not None
        ]

    def again(self) -> Payload:
        """See `contract.Progress`."""
        self.finished.clear()
        self._states.clear()
        return Payload(self.prompt, self.params, self.options, self)

    def further(self, step: Continue) -> Payload:
        """See `contract.Progress`."""
        return Payload(self.prompt, self.params, self.options, self, step)

    def keep(self, processor: OutputProcessor, state: RequestState, leg: int | None) -> None:
        """An engine is about to begin a sequence, or to go on with the one of that index."""
        if leg is not None:
            _carry(self._states[leg], state)
        self._processor = processor
        self._states[state.request_index] = state

    def endings(self) -> list[Ended]:
        """See `contract.Progress`."""
        return [
            Ended(
                token_ids=state.detokenizer.output_token_ids,
                finish_reason=self.finished[index],
                text=(text := getattr(state.detokenizer, "output_text", None)),
                json=self._json(text),
            )
            for index, state in sorted(self._states.items())
            if state.detokenizer is not None and index in self.finished
        ]

    def _json(self, text: str | None) -> str | None:
        """What of a text was to be JSON. What the client's own stop strings may have cut was not to
        be whole; nor can anybody tell where thoughts end that are marked in an uncommon way."""
        grammar, params = self.params.structured_outputs, self.params
        is_due = grammar is not None and (grammar.json is not None or grammar.json_object)
        if text is None or not is_due or params.stop or params.stop_token_ids:
            return None
        if not self.thinks:
            return text
        _, end_of_thoughts, answer = text.rpartition("</think>")
        return answer if end_of_thoughts else None

    def ending(self, index: int, reason: str) -> Any:
        """The last output of a sequence that lacks nothing but the word of its end."""
        state = self._states[index]
        state.parent_req = None
        return state.make_request_output([], None, FinishReason[reason.upper()], None)


_ADDING: ContextVar[tuple[VllmProgress, int | None] | None] = ContextVar("adding", default=None)
"""The call that this task adds to an engine at the moment, and which of its sequences goes on."""


def progress_of(
    prompt: Any, params: SamplingParams, options: Mapping[str, Any], llm: AsyncLLM
) -> VllmProgress | None:
    """None for prompts that have no tokens of their own: embeddings, and those of two parts."""
    if not isinstance(prompt, dict) or "prompt_token_ids" not in prompt:
        return None
    thinks = bool(llm.vllm_config.structured_outputs_config.reasoning_parser)
    return VllmProgress(prompt, params, options, _target(llm), thinks)


def _target(llm: AsyncLLM) -> Target:
    config = llm.vllm_config
    if config.speculative_config is not None:  # what guesses tokens ahead takes no bias either
        counting = Counting.NOT
    else:
        counting = Counting.BIAS if config.use_v2_model_runner else Counting.ENGINE
    return Target(
        context_tokens=llm.model_config.max_model_len,
        counting=counting,
        # With one, where the grammar begins depends on where the reasoning ended.
        restores_grammars=not config.structured_outputs_config.reasoning_parser,
    )


class _Keeping(OutputProcessor):
    """Tells calls of their states, and takes over carried ones before any output can come. No
    function of the object's own, which would keep it alive until the collector comes."""

    def add_request(self, request: Any, *args: Any, **options: Any) -> None:
        """See vLLM's."""
        super().add_request(request, *args, **options)
        if (adding := _ADDING.get()) is not None:
            progress, leg = adding
            progress.keep(self, self.request_states[request.request_id], leg)

    def propagate_error(self, error: Exception) -> None:
        """See vLLM's. A call that is told of the engine's end takes its states away at once, so it
        is told by a list of its own."""
        for state in list(self.request_states.values()):
            state.queue.put(error)


def keep_states(processor: OutputProcessor) -> None:
    """Have this engine's output processor do so from now on."""
    assert type(processor) is OutputProcessor, f"a processor of another kind: {type(processor)}"
    processor.__class__ = _Keeping


async def add(
    llm: AsyncLLM, work_id: JobId, payload: Payload
) -> AsyncIterator[RequestOutputCollector]:
    """Begin a call, or go on with it; yields where its outputs come. Of several sequences that go
    on each is a request of its own, under the same external id."""
    progress, step = payload.progress, payload.step
    if progress is None or step is None:
        yield await _add(llm, work_id, payload, payload.prompt, payload.params, None)
        return
    for leg in step.legs:
        prompt = {**payload.prompt, "prompt_token_ids": list(leg.prompt_token_ids)}
        params = _leg_params(progress.params, leg)
        yield await _add(llm, work_id, payload, prompt, params, leg.index)


async def _add(
    llm: AsyncLLM,
    work_id: JobId,
    payload: Payload,
    prompt: Any,
    params: SamplingParams | PoolingParams,
    leg: int | None,
) -> RequestOutputCollector:
    token = _ADDING.set(None if payload.progress is None else (payload.progress, leg))
    try:
        return await llm.add_request(work_id, prompt, params, **payload.options)
    finally:
        _ADDING.reset(token)


def _leg_params(params: SamplingParams, leg: Leg) -> SamplingParams:
    params = copy(params)
    params.n = 1
    params.max_tokens, params.min_tokens = leg.max_tokens, leg.min_tokens
    params.seed = leg.seed
    params.logit_bias = dict(leg.logit_bias) or None
    params.prompt_logprobs = None  # sent already
    params.extra_args = {**(params.extra_args or {}), KEPT: leg.kept_tokens}
    return params


def _carry(old: RequestState, new: RequestState) -> None:
    for name in _CARRIED:
        setattr(new, name, getattr(old, name))
    # That many tokens of the prompt were cached, as the client has been told.
    new.remote_prefill_cached_tokens = old.num_cached_tokens
