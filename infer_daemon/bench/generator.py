"""The bench's side of a load generator: starts the process, reads what it tells, ends it."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from infer_daemon.bench import prompts
from infer_daemon.bench.crowd import Crowd, Job, Line, LoadProblem, Result, Sample
from infer_daemon.bench.launches import HOME
from infer_daemon.bench.servers import HOST, Server
from infer_daemon.bench.wire import Address

END_TIMEOUT_S = 30.0
QUIET_S = 30.0
"""A generator tells something ten times a second; one that is silent for so long has failed."""


class Generator:
    """A load generator at work."""

    def __init__(self, job: Job) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "infer_daemon.bench.load"],
            cwd=HOME,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the bench, which ends it in order
        )
        self._news = threading.Condition()
        self._ended = False
        self.samples: list[Sample] = []
        self._result: Result | None = None
        self._reader = threading.Thread(target=self._read, name="generator", daemon=True)
        self._reader.start()
        assert self._process.stdin is not None, "it was asked for"
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()

    def wait(self, until: Callable[[Sample], bool], timeout_s: float, what: str) -> Sample:
        """Wait for a sample of this kind; the first is returned.

        Args:
            what: the load is to do, for the error.

        Raises:
            LoadProblem: there was none in time.
        """
        deadline_s = time.monotonic() + timeout_s
        seen = 0
        with self._news:
            while True:
                for sample in self.samples[seen:]:
                    if until(sample):
                        return sample
                seen = len(self.samples)
                left_s = deadline_s - time.monotonic()
                if self._ended or left_s <= 0:
                    raise LoadProblem(f"the load did not {what} within {timeout_s:.0f} s")
                if not self._news.wait(min(left_s, QUIET_S)) and left_s > QUIET_S:
                    raise LoadProblem("the load generator is silent")

    def go_on(self, until_s: float) -> float:
        """Let it work up to this time; returns the time of the first sample from then on.

        Raises:
            LoadProblem: it ended before.
        """
        timeout_s = until_s - time.monotonic() + QUIET_S
        return self.wait(lambda sample: sample.at_s >= until_s, timeout_s, "go on").at_s

    def result(self, timeout_s: float) -> Result:
        """Wait until its crowds have ended, and have what became of them.

        Raises:
            LoadProblem: it failed, or took longer.
        """
        self._reader.join(timeout_s)
        if self._result is None:
            late = "is not done" if self._reader.is_alive() else "failed"
            raise LoadProblem(f"the load generator {late}")
        return self._result

    def stop(self) -> Result:
        """End it now; what is in flight is cut short.

        Raises:
            LoadProblem: it failed.
        """
        assert self._process.stdin is not None, "it was asked for"
        self._process.stdin.close()
        return self.result(END_TIMEOUT_S)

    def close(self) -> None:
        """Leave nothing of it behind."""
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None, "it was asked for"
        decoder = msgspec.json.Decoder(Line)
        for text in self._process.stdout:
            line = decoder.decode(text)
            with self._news:
                if isinstance(line, Sample):
                    self.samples.append(line)
                else:
                    self._result = line
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Loads:
    """Starts load generators against one server, one or a few at a time."""

    def __init__(self, server: Server, key: str, problems: list[str]) -> None:
        """
        Args:
            key: of any tenant, to ask how the server counts.
            problems: is given every request that was not answered as it must be, in words.

        Raises:
            ServerProblem: it does not answer, or not with the demo's model.
        """
        self._port = server.launch.port
        self.template_tokens = prompts.template_tokens(self._port, key)
        self._problems = problems

    @contextmanager
    def at_work(self, crowds: list[Crowd], *, seed: int = 1) -> Iterator[Generator]:
        """Within this block, a load generator at work. `end` it there."""
        job = Job(
            address=Address(HOST, self._port),
            model=prompts.MODEL,
            template_tokens=self.template_tokens,
            crowds=crowds,
            seed=seed,
        )
        generator = Generator(job)
        try:
            yield generator
        finally:
            generator.close()

    def end(self, load: Generator) -> Result:
        """Stop a load now, and note what went wrong in it."""
        return self._noted(load.stop())

    def play(self, crowds: list[Crowd], timeout_s: float, *, seed: int = 1) -> Result:
        """A load from its beginning to the end that its crowds come to themselves.

        Raises:
            LoadProblem: it failed, or took longer.
        """
        with self.at_work(crowds, seed=seed) as load:
            return self._noted(load.result(timeout_s))

    def _noted(self, result: Result) -> Result:
        self._problems += result.failures
        return result
