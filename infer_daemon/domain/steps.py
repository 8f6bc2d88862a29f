"""What an engine's start finds out of its speed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an engine, as it was timed."""

    duration_ns: int
    decode_seqs: int
    """Sequences that it gave a token each."""
    prompt_tokens: int
    """Tokens of prompts that it read."""
