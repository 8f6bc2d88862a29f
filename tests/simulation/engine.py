"""An engine as a scheduler sees one: steps in which prompts are read and outputs grow."""

from dataclasses import dataclass, field

from infer_daemon.domain.jobs import EngineName, Job, JobId, WindowLimits


@dataclass(slots=True)
class Progress:
    """A job in a simulated engine."""

    job: Job
    prompt_left: int
    outputs_left: list[int]
    """Of each sequence."""


@dataclass(slots=True)
class SimEngine:
    """Prefills a number of tokens a step, first come first served, and decodes all the others."""

    name: EngineName
    limits: WindowLimits
    step_s: float
    prefill_per_step: int
    output_per_step: int
    jobs: dict[JobId, Progress] = field(default_factory=dict)
    is_alive: bool = True
    is_stepping: bool = False

    def step(self) -> list[tuple[JobId, int, bool]]:
        """Who generated how much, and whether that was all."""
        budget, outcomes = self.prefill_per_step, []
        for job_id, progress in list(self.jobs.items()):
            part = min(budget, progress.prompt_left)
            budget -= part
            progress.prompt_left -= part
            if progress.prompt_left:
                continue
            parts = [min(left, self.output_per_step) for left in progress.outputs_left]
            progress.outputs_left = [
                left - part for left, part in zip(progress.outputs_left, parts, strict=True)
            ]
            outcomes.append((job_id, sum(parts), not any(progress.outputs_left)))
        return outcomes
