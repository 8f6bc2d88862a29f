"""Inside vLLM's processes: what a leg keeps of an answer counts as output, as before the cut.

vLLM takes all tokens that a call begins with for its prompt. The call that goes on with an answer
(see `engines.continuing`) says how many of the last of them are output: penalties and bad words
look at them, and a grammar begins behind them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

KEPT = "infer_daemon_kept_tokens"
"""Key in `SamplingParams.extra_args`: how many tokens at the end of the prompt are output."""


class KeptAndNew(list[int]):
    """What vLLM knows as the output of a sequence, and what came before that."""

    def __init__(self, new: Sequence[int], kept: Sequence[int]) -> None:
        super().__init__(new)
        self.kept = list(kept)

    @property
    def all(self) -> list[int]:
        """From the first token of the answer on."""
        return [*self.kept, *self]


def kept_tokens(params: Any, prompt_token_ids: Sequence[int] | None) -> Sequence[int]:
    """The end of the prompt that is output; nothing, of a call that begins an answer."""
    count = (getattr(params, "extra_args", None) or {}).get(KEPT, 0)
    if not isinstance(count, int) or count <= 0 or not prompt_token_ids:
        return ()
    return prompt_token_ids[-count:]


def count_what_is_kept() -> None:
    """For engines with vLLM's first model runner; the second never asks what this changes."""
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.worker.gpu_input_batch import InputBatch

    add_request = InputBatch.add_request
    apply_logits_processors = Sampler.apply_logits_processors

    def add(self: InputBatch, request: Any) -> int:
        if kept := kept_tokens(request.sampling_params, request.prompt_token_ids):
            request.output_token_ids = KeptAndNew(request.output_token_ids, kept)
        return add_request(self, request)

    def apply(self: Sampler, logits: Any, metadata: Any, *args: Any, **options: Any) -> Any:
        rows = metadata.output_token_ids
        if any(isinstance(row, KeptAndNew) for row in rows):
            rows = [row.all if isinstance(row, KeptAndNew) else row for row in rows]
            metadata = dataclasses.replace(metadata, output_token_ids=rows)
        return apply_logits_processors(self, logits, metadata, *args, **options)

    InputBatch.add_request = add
    Sampler.apply_logits_processors = apply


def begin_grammars_behind_what_is_kept() -> None:
    """A grammar that does not take it fails its own call, as one that does not compile."""
    from vllm.v1.structured_output import StructuredOutputManager

    create_grammar = StructuredOutputManager._create_grammar

    def create(self: StructuredOutputManager, request: Any) -> Any:
        grammar = create_grammar(self, request)
        kept = kept_tokens(request.sampling_params, request.prompt_token_ids)
        if kept and not grammar.accept_tokens(request.request_id, list(kept)):
            raise ValueError("the grammar does not take what there is of the answer")
        return grammar

    StructuredOutputManager._create_grammar = create
