"""Benches from the command line to their verdicts, on the simulated engine: real servers, real load
generators, counts as small as they can be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infer_daemon.bench.crowd import Crowd, Job
from infer_daemon.bench.generator import Generator
from infer_daemon.bench.servers import free_port
from infer_daemon.bench.wire import Address

TIMEOUT_S = 60.0


def bench(root: Path, folder: Path, *words: str) -> dict[str, Any]:
    """Run a bench; what it wrote. Nothing of it may be left in its temporary folder."""
    file = folder / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "infer_daemon", "bench", *words, "--kind", "sim", "--json", file],
        cwd=root,
        env={"TMPDIR": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert "Targets" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["figures.json"]
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["problems"] == []
    assert {target["verdict"] for target in found["targets"]} <= {"met", "missed", "not seen"}
    return found


def test_isolation_tells_of_a_flood_and_its_victim(root: Path, short_dir: Path) -> None:
    effort = ("--runs", "1", "--seconds", "1", "--victim-requests", "3")
    found = bench(root, short_dir, "isolation", *effort)

    [round_] = found["figures"]["servers"]["daemon"]
    assert 0 < round_["alone"]["requests"] <= 3  # a slow machine has not the time for more
    assert round_["alone"]["p50_ms"] > 0
    assert round_["flood_tokens_per_s"] > 0
    assert len(found["figures"]["unthrottled_tokens_per_s"]) == 1


def test_overload_tells_of_every_load_and_of_what_came_after(root: Path, short_dir: Path) -> None:
    found = bench(root, short_dir, "overload", "--runs", "1", "--seconds", "0.4")

    [round_] = found["figures"]["servers"]["daemon"]
    assert [load["multiple"] for load in round_["loads"]] == [0.5, 1, 2, 3, 10]
    assert all(load["offered_per_s"] > 0 for load in round_["loads"])
    assert round_["memory_before_bytes"] > 1_000_000


def test_fairness_tells_of_every_tenants_service(root: Path, short_dir: Path) -> None:
    found = bench(root, short_dir, "fairness", "--runs", "1", "--seconds", "1")

    [round_] = found["figures"]["rounds"]
    tenants = [len(round_[load]) for load in ("equal", "weighted", "ten", "returning")]
    assert tenants == [2, 2, 10, 3]
    assert min(round_["equal"]) > 0
    assert round_["equal_difference_max"] > 0


def test_priority_tells_of_every_class(root: Path, short_dir: Path) -> None:
    found = bench(root, short_dir, "priority", "--runs", "1", "--seconds", "1")

    [round_] = found["figures"]["rounds"]
    assert round_["interactive"]["requests"] > 0
    assert round_["critical"]["requests"] > 0
    assert 0 < round_["batch_share"] < 1


def test_a_load_that_is_told_to_end_says_what_there_was() -> None:
    nobody = Address("127.0.0.1", free_port())
    usual = {"name": "c", "key": "k", "prompt_tokens": 4, "output_tokens": 2, "connections": 1}
    job = Job(address=nobody, model="m", template_tokens=1, crowds=[msgspec.convert(usual, Crowd)])
    load = Generator(job)
    try:
        load.wait(lambda sample: sample.crowds["c"].done > 0, TIMEOUT_S, "fail")
        result = load.stop()
    finally:
        load.close()

    assert "ConnectionRefusedError" in result.failures[0]


def test_a_load_whose_bench_is_gone_ends_by_itself() -> None:
    crowd = Crowd(
        name="c",
        key="k",
        prompt_tokens=4,
        output_tokens=2,
        connections=1,
        begin_s=1000,
    )
    job = Job(address=Address("127.0.0.1", 1), model="m", template_tokens=1, crowds=[crowd])
    process = subprocess.Popen(
        [sys.executable, "-m", "infer_daemon.bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None

    process.stdin.write(msgspec.json.encode(job) + b"\n")
    process.stdin.close()

    assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("words", [["--seconds", "x"], ["--peer", "--json"]])
def test_a_bench_that_is_not_whole_starts_nothing(
    root: Path, short_dir: Path, words: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infer_daemon", "bench", "isolation", *words],
        cwd=root,
        env={"TMPDIR": str(short_dir), "PATH": ""},
        capture_output=True,
        timeout=TIMEOUT_S,
    )

    assert done.returncode == 2
    assert list(short_dir.iterdir()) == []
