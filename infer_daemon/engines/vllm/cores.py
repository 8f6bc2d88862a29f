"""Which cores an engine on the CPU computes on.

vLLM's own "auto" binds the threads of every engine to the same first core. Here the cores of the
machine are dealt out once, for all engines together.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

CORES_WORTH_BINDING = 2

CoresSetting = Literal["auto", "none"] | list[int]


def deal(wishes: Mapping[str, CoresSetting], available: Sequence[int]) -> dict[str, list[int]]:
    """Engine name -> the cores that it is bound to; an empty list leaves it to the kernel.

    Engines that name their cores get those. The rest share what nobody named, in equal parts of
    neighbouring cores, but for one core that is left to the daemon and the engines' schedulers.
    Where that is less than two cores for each, none of them is bound: on two cores an engine bound
    to one gave 2,330 tokens/s and one that the kernel could move 2,650.
    """
    named = {core for wish in wishes.values() if isinstance(wish, list) for core in wish}
    free = [core for core in available if core not in named]
    if len(free) > 1:
        free.pop()
    automatic = [name for name, wish in wishes.items() if wish == "auto"]
    dealt = {name: list(wish) if isinstance(wish, list) else [] for name, wish in wishes.items()}
    if automatic and len(free) >= CORES_WORTH_BINDING * len(automatic):
        share, extra = divmod(len(free), len(automatic))
        start = 0
        for index, name in enumerate(automatic):
            end = start + share + (index < extra)
            dealt[name] = free[start:end]
            start = end
    return dealt


def environment(cores: list[int]) -> dict[str, str]:
    """The variables that bind an engine's compute threads, one thread a core."""
    if not cores:
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "OMP_NUM_THREADS": str(len(cores)),
    }
