"""A model whose answers look wrong: what operators see of it."""

import pytest
from structlog.types import EventDict

from infer_daemon import tables
from infer_daemon.engines.anomalies import ANSWERS_MIN
from tests.integration.running import Running

CHAT = "/v1/chat/completions"


async def chat(running: Running, text: str, **fields: object) -> None:
    """The simulation answers with what it was asked."""
    body = {"model": "echo", "messages": [{"role": "user", "content": text}], **fields}
    assert (await running.post(CHAT, body)).status_code == 200


async def test_a_model_that_breaks_its_promise_of_json_is_flagged_where_operators_look(
    running: Running, log_lines: list[EventDict], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(ANSWERS_MIN):
        await chat(running, "no json", response_format={"type": "json_object"})
    for _ in range(ANSWERS_MIN):
        await chat(running, "no json")

    page = (await running.http.get("/metrics")).text
    labels = '{kind="invalid_json",model="echo"}'
    assert f"infer_output_anomalies_total{labels} {ANSWERS_MIN}.0" in page
    assert f"infer_output_anomaly_flagged{labels} 1.0" in page
    (line,) = [line for line in log_lines if line["event"] == "model_flagged"]
    assert (line["model"], line["kind"], line["share"]) == ("echo", "invalid_json", 1.0)
    state = running.daemon.view.state()
    assert state["anomalies"] == [{"model": "echo", "kind": "invalid_json", "share": 1.0}]
    tables.show_state(state)
    assert "model echo: 100% of its last answers are no JSON" in capsys.readouterr().out


async def test_answers_go_round_in_circles_by_public_name(running: Running) -> None:
    for _ in range(ANSWERS_MIN):
        await running.post(
            "/v1/completions",
            {"model": "other", "prompt": "a b", "max_tokens": 90, "ignore_eos": True},
        )

    assert [f["model"] for f in running.daemon.judge.snapshot()] == ["other"]
    assert [f["kind"] for f in running.daemon.judge.snapshot()] == ["loop"]


async def test_embeddings_are_not_judged(running: Running) -> None:
    for _ in range(ANSWERS_MIN):
        await running.post("/v1/embeddings", {"model": "echo", "input": ""})

    assert running.daemon.judge.snapshot() == []
