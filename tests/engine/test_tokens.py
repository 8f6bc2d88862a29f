"""Long prompts have the tokens, and answers to them the text, that vLLM gives them."""

from types import SimpleNamespace
from typing import Any

import pytest
from harness import Running
from tokenizers.decoders import DecodeStream
from vllm.renderers import BaseRenderer, TokenizeParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

from infer_daemon.domain.jobs import EngineName
from infer_daemon.engines.vllm import detokenizing, rendering
from infer_daemon.engines.vllm.fair_threads import FairExecutor

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

MIXED = (
    "Fast brown fox, 12345 words; naïve café 東京タワー 🦊🦊 <|im_start|>user\n\tx = {1: [2, 3]}\n"
)


def renderer(running: Running, engine: str) -> Any:
    return running.daemon.fleet.supervisors[EngineName(engine)].engine._llm.renderer


@pytest.mark.parametrize("engine", ["demo", "minilm"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_total_tokens": None},
        {"max_total_tokens": None, "add_special_tokens": False},
        {"max_total_tokens": 4000, "truncate_prompt_tokens": 50},
        {"max_total_tokens": None, "return_token_offsets": True},
    ],
    ids=str,
)
async def test_a_long_text_has_the_tokens_that_vllm_finds(
    vllm_daemon: Running, engine: str, options: dict[str, Any]
) -> None:
    prompt = {"prompt": MIXED * (2 * rendering.LONG_CHARS // len(MIXED))}
    params = TokenizeParams(**options)
    ours = renderer(vllm_daemon, engine)

    found = ours._tokenize_prompt(dict(prompt), params)

    assert found == BaseRenderer._tokenize_prompt(ours, dict(prompt), params)


async def test_everything_that_renders_works_in_turns(vllm_daemon: Running) -> None:
    for engine in ("demo", "demo-small", "minilm"):
        assert isinstance(renderer(vllm_daemon, engine)._executor._inner, FairExecutor)


async def test_an_answer_to_a_long_prompt_has_the_same_text(vllm_daemon: Running) -> None:
    tokenizer = renderer(vllm_daemon, "demo").tokenizer
    ids = tokenizer(MIXED * 100)["input_ids"]

    def on_all_of_it(prompt: list[int], answer: list[int]) -> str:
        stream = DecodeStream(ids=prompt, skip_special_tokens=True)
        return "".join(stream.step(tokenizer._tokenizer, token) or "" for token in answer)

    def as_vllm_does(prompt: list[int], answer: list[int]) -> str:
        request = SimpleNamespace(
            request_id="r", prompt_token_ids=prompt, sampling_params=SamplingParams()
        )
        detokenizer = FastIncrementalDetokenizer(tokenizer, request)
        detokenizer.update(answer, False)
        return str(detokenizer.output_text)

    compared = 0
    for cut in range(2 * detokenizing.TAIL, 2 * detokenizing.TAIL + 100):
        prompt, answer = ids[:cut], ids[cut : cut + 60]
        if tokenizer.decode(prompt).endswith("\ufffd"):
            continue  # inside a character, where the answer would begin with all of the prompt
        compared += 1
        assert as_vllm_does(prompt, answer) == on_all_of_it(prompt, answer)
    assert compared > 50
