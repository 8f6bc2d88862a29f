"""What holds for every kind of engine behind the gate: one suite, on the simulation and vLLM."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from harness import KEY, Running

from infer_daemon.asking import Ask, Body
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ClientError, DaemonError, FanoutTooLarge, ModelNotFound
from infer_daemon.engines.contract import Reply
from infer_daemon.request_path import Answer

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

PROMPT = "one two three four five six seven eight"


@dataclass
class Kind:
    """One kind of engine under test."""

    running: Running
    model: str
    embedding_model: str

    async def ask(self, endpoint: Endpoint, **fields: Any) -> Answer:
        async def read() -> Body:
            return Body({"model": self.model, **fields})

        return await self.running.daemon.path.run(Ask(endpoint=endpoint, key=KEY, read=read))

    async def chat(self, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": PROMPT}]
        answer = await self.ask(Endpoint.CHAT, messages=messages, **fields)
        assert isinstance(answer.content, Reply)
        body: dict[str, Any] = json.loads(answer.content.body)
        return body

    async def stream(self, **fields: Any) -> Any:
        messages = [{"role": "user", "content": PROMPT}]
        answer = await self.ask(
            Endpoint.CHAT,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            ignore_eos=True,
            **fields,
        )
        assert not isinstance(answer.content, Reply)
        return answer.content

    @property
    def scheduler(self) -> Any:
        pool = self.running.daemon.catalog.route(self.model).pool
        return self.running.daemon.schedulers[pool]


@pytest.fixture(params=["sim", "vllm"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "sim":
        return Kind(request.getfixturevalue("sim_daemon"), "echo", "echo")
    return Kind(request.getfixturevalue("vllm_daemon"), "demo-small", "minilm")


def events_of(chunks: list[bytes]) -> list[dict[str, Any]]:
    lines = b"".join(chunks).decode().split("\n\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


async def test_a_whole_answer_counts_its_tokens(kind: Kind) -> None:
    body = await kind.chat(max_tokens=5, ignore_eos=True)

    assert body["usage"]["completion_tokens"] == 5
    assert body["model"] == kind.model
    assert body["choices"][0]["finish_reason"] == "length"


async def test_a_stream_adds_up_to_the_whole_answer(kind: Kind) -> None:
    whole = await kind.chat(max_tokens=7, ignore_eos=True, temperature=0)

    stream = await kind.stream(max_tokens=7, temperature=0)
    chunks = [chunk async for chunk in stream]

    events = events_of(chunks)
    pieces = [e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["completion_tokens"] == 7
    assert chunks[-1].endswith(b"data: [DONE]\n\n")


async def test_the_end_of_a_stream_is_settled_before_it_is_handed_out(kind: Kind) -> None:
    recorder = kind.running.daemon.recorder
    before = recorder.settled_count
    settled_at_chunk = []

    async for chunk in await kind.stream(max_tokens=6):
        settled_at_chunk.append((b"[DONE]" in chunk, recorder.settled_count - before))

    assert settled_at_chunk[-1] == (True, 1)
    assert settled_at_chunk[0] == (False, 0)


async def test_several_choices_come_from_one_request(kind: Kind) -> None:
    body = await kind.chat(n=3, max_tokens=4, ignore_eos=True)

    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 12


async def test_prompts_of_a_list_are_answered_in_order(kind: Kind) -> None:
    prompts = ["alpha beta", "gamma delta", "epsilon zeta"]

    answer = await kind.ask(
        Endpoint.COMPLETIONS, prompt=prompts, max_tokens=2, ignore_eos=True, temperature=0
    )

    assert isinstance(answer.content, Reply)
    body = json.loads(answer.content.body)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 6


async def test_embeddings_have_one_vector_for_each_text(kind: Kind) -> None:
    answer = await kind.ask(
        Endpoint.EMBEDDINGS, model=kind.embedding_model, input=["a cat", "a dog"]
    )

    assert isinstance(answer.content, Reply)
    data = json.loads(answer.content.body)["data"]
    assert [row["index"] for row in data] == [0, 1]
    assert len(data[0]["embedding"]) == len(data[1]["embedding"])
    assert data[0]["embedding"] != data[1]["embedding"]


async def test_a_stream_that_is_closed_early_leaves_nothing_in_the_engine(kind: Kind) -> None:
    stream = await kind.stream(max_tokens=1500)
    await anext(stream)

    await stream.aclose()

    await nothing_runs(kind)


async def test_a_stream_that_was_never_read_leaves_nothing_in_the_engine(kind: Kind) -> None:
    stream = await kind.stream(max_tokens=1500)

    await stream.aclose()

    await nothing_runs(kind)


async def test_a_cancelled_whole_answer_leaves_nothing_in_the_engine(kind: Kind) -> None:
    task = asyncio.create_task(kind.chat(max_tokens=1500, ignore_eos=True))
    while kind.scheduler.running == 0:
        await asyncio.sleep(0.001)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await nothing_runs(kind)


async def test_tokens_are_counted_though_nobody_reads_them(kind: Kind) -> None:
    stream = await kind.stream(max_tokens=40)
    record = stream._record

    while not record.is_generated:
        await asyncio.sleep(0.001)

    assert record.completion_tokens == 40
    assert kind.scheduler.running == 0
    await stream.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_more_sequences_than_the_window_holds_are_refused(kind: Kind, stream: bool) -> None:
    with pytest.raises(FanoutTooLarge):
        await kind.chat(n=100, max_tokens=2, stream=stream)


async def test_more_prompts_than_the_fanout_limit_are_refused(kind: Kind) -> None:
    with pytest.raises(DaemonError) as refused:
        await kind.ask(Endpoint.COMPLETIONS, prompt=["x"] * 129, max_tokens=1)

    assert refused.value.code == "fanout_too_large"


async def test_a_prompt_that_is_too_long_is_the_clients_error(kind: Kind) -> None:
    with pytest.raises(DaemonError) as refused:
        await kind.ask(Endpoint.CHAT, messages=[{"role": "user", "content": "hi " * 9000}])

    assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")


async def test_fields_of_the_wrong_type_are_the_clients_error(kind: Kind) -> None:
    with pytest.raises(DaemonError) as refused:
        await kind.ask(Endpoint.CHAT, messages=7)

    assert refused.value.status == 400


async def test_an_endpoint_that_the_model_lacks_is_refused(kind: Kind) -> None:
    with pytest.raises(ClientError) as refused:
        await kind.ask(Endpoint.CLASSIFY, input="x")

    assert refused.value.code == "unsupported"


async def test_an_unknown_model_is_not_found(kind: Kind) -> None:
    with pytest.raises(ModelNotFound, match=kind.model):
        await kind.ask(Endpoint.CHAT, model="nobody", messages=[])


async def nothing_runs(kind: Kind) -> None:
    """The slot is free at once; the engine itself is told and may need a step."""
    assert kind.scheduler.running == 0
    async with asyncio.timeout(5):
        for name in kind.running.daemon.fleet.supervisors:
            while _busy(kind.running.daemon.fleet.supervisors[name].engine):
                await asyncio.sleep(0.005)


def _busy(engine: Any) -> bool:
    llm = getattr(engine, "_llm", None)
    if llm is not None:
        return bool(llm.output_processor.get_num_unfinished_requests())
    return bool(engine.stats.running)
