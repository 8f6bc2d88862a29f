"""How the tables of one file must agree with each other."""

import pytest

from infer_daemon.settings.load import SettingsError, parse
from infer_daemon.tenancy.registry import key_hash

A = '[engines.a]\nkind = "sim"\nmodel = "echo"\n'
B = '[engines.b]\nkind = "sim"\nmodel = "echo"\n'
HASH = key_hash("sk-acme")


def problems(text: str) -> list[str]:
    """What is wrong with this text; [] where nothing is."""
    try:
        parse(text, source="test.toml", environ={})
    except SettingsError as error:
        return error.problems
    return []


PRICED = A + "[models.m]\nengines = ['a']\nprice = { input_usd = 1, output_usd = 1 }\n"


@pytest.mark.parametrize(
    "text",
    [
        A + "[models.m]\nengines = ['a']",
        A + B + "[models.m]\nengines = ['a', 'b']\n[models.n]\nengines = ['b', 'a']",
        A + B + "[models.m]\nengines = ['a']\n[models.n]\nengines = ['b']",
        A + "[models.m]\nengines = ['a']\n[models.n]\nengines = ['a']\nlora = '/x'",
    ],
    ids=["one", "one pool of two", "two pools", "an adapter"],
)
def test_a_configuration_that_agrees_with_itself_is_accepted(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[engines]\n[models.m]\nengines = ['a']",
            "$.engines: at least one engine is needed",
        ),
        (A + "[models]", "$.models: at least one model is needed"),
        (
            A + B + "[models.m]\nengines = ['a']",
            "$.engines.b: no model uses this engine",
        ),
        (
            A + "[models.m]\nengines = ['a', 'c']",
            "$.models.m.engines[1]: no engine 'c' (there is: a)",
        ),
        (
            A + "[models.m]\nengines = ['a']\nlora = '/x'",
            "$.models.m: its engines also need a model without a lora",
        ),
        (
            A + "[models.m]\nengines = ['a', 'a']",
            "$.models.m.engines: names an engine twice",
        ),
        (
            A + "[engines.b]\nmodel = 'other'\n[models.m]\nengines = ['a', 'b']",
            "$.models.m.engines: replicas must have the same kind, model and vllm table",
        ),
        (
            "[engines.a]\nmodel = 'x'\nvllm = { max_lora_rank = 8 }\n[engines.b]\nmodel = 'x'\n"
            "[models.m]\nengines = ['a', 'b']",
            "$.models.m.engines: replicas must have the same kind, model and vllm table",
        ),
        (
            A + "cpu_cores = [0, 1]\n" + B + "cpu_cores = [1]\n[models.m]\nengines = ['a', 'b']",
            "$.engines.b.cpu_cores[0]: core 1 is used by engine 'a'",
        ),
        (
            "[engines.a]\nmodel = 'x'\nvllm = { enable_log_requests = true }\n"
            "[models.m]\nengines = ['a']",
            "$.engines.a.vllm.enable_log_requests: is not offered: prompts are never logged",
        ),
        (
            A + B + "[models.m]\nengines = ['a', 'b']\n[models.n]\nengines = ['b']",
            "$.models.n.engines: shares ['b'] with model 'm', "
            "so both must name the same engines (they are one pool)",
        ),
        (
            A + "devices = [0, 1]\n" + B + "devices = [2, 1]\n[models.m]\nengines = ['a', 'b']",
            "$.engines.b.devices[1]: device 1 is used by engine 'a' (to share it, their "
            "vllm.gpu_memory_utilization must add up to at most 1)",
        ),
        (
            A + "devices = [3, 3]\n[models.m]\nengines = ['a']",
            "$.engines.a.devices[1]: device 3 is used by itself",
        ),
        (
            A + f"[models.m]\nengines = ['a']\n[tenants.x]\nkey_hashes = ['{HASH}']\n"
            f"[tenants.y]\nkey_hashes = ['{HASH}']",
            "$.tenants.y.key_hashes[0]: tenant 'x' has the same key",
        ),
        (
            A + "vllm = { dtype = 'auto' }\n[models.m]\nengines = ['a']",
            "$.engines.a.vllm: a simulated engine takes no vLLM arguments",
        ),
        (
            "[engines.a]\nmodel = 'x'\nvllm = { api-key = 'y' }\n[models.m]\nengines = ['a']",
            "$.engines.a.vllm.api-key: is set by key_hashes in [tenants.NAME]",
        ),
        (
            "[engines.a]\nmodel = 'x'\nvllm = { max_num_seqs = 3 }\n[models.m]\nengines = ['a']",
            "$.engines.a.vllm.max_num_seqs: is set by $.engines.a.max_num_seqs",
        ),
        (
            A + "[models.chat]\nengines = ['a']\n[models.code]\nengines = ['a']\n"
            "[tenants.x]\nmodels = ['chat', 'chta']",
            "$.tenants.x.models[1]: no model 'chta' (there is: chat, code)",
        ),
        (
            A + "[models.m]\nengines = ['a']\n[tenants.x]\npriority = 'critical'",
            "$.tenants.x.priority: 'critical' is above its priority_max, 'interactive' "
            '(critical work needs priority_max = "critical")',
        ),
        (
            A + "[models.m]\nengines = ['a']\n[breaker]\nopen_s = 200",
            "$.breaker.open_s: 200 is above open_s_max, 120",
        ),
        (
            A + "restart.delay_s_max = 0.25\n[models.m]\nengines = ['a']",
            "$.engines.a.restart.delay_s: 0.5 is above delay_s_max, 0.25",
        ),
        (
            A + "max_num_seqs = 8\nwindow.seqs = 9\n[models.m]\nengines = ['a']",
            "$.engines.a.window.seqs: 9 is above max_num_seqs, 8",
        ),
    ],
)
def test_a_contradiction_names_its_place(text: str, problem: str) -> None:
    assert problem in problems(text)


@pytest.mark.parametrize(
    "keys",
    [
        "priority = 'critical'\npriority_max = 'critical'",
        "priority = 'batch'",
        "priority_max = 'batch'",
        "models = ['m']",
    ],
)
def test_a_tenant_may_be_told_apart_in_any_way_that_means_something(keys: str) -> None:
    assert problems(A + "[models.m]\nengines = ['a']\n[tenants.x]\n" + keys) == []


def test_engines_that_say_how_much_they_take_may_share_a_device() -> None:
    text = "[engines.{0}]\nmodel = 'x'\ndevices = [1]\nvllm = {{ gpu_memory_utilization = {1} }}\n"
    models = "[models.m]\nengines = ['a']\n[models.n]\nengines = ['b']\n"

    assert problems(text.format("a", 0.8) + text.format("b", 0.15) + models) == []
    assert len(problems(text.format("a", 0.8) + text.format("b", 0.25) + models)) == 1


def test_all_contradictions_are_told_at_once() -> None:
    found = problems(A + B + "devices = [1, 1]\n[models.m]\nengines = ['a', 'c']")

    assert [problem.partition(": ")[0] for problem in found] == [
        "$.engines.b",
        "$.models.m.engines[1]",
        "$.engines.b.devices[1]",
    ]


@pytest.mark.parametrize(
    ("budget", "problem"),
    [
        ("hard.day_usd = -1", "hard.day_usd: a budget of -1: must be from 0 to 1000000 dollars"),
        ("hard.day_usd = 'x'", "hard.day_usd: a budget of 'x': is not a number of dollars"),
        (
            "soft.month_usd = '0.0000000001'",
            "soft.month_usd: a budget of 0.0000000001: has more than 9 decimals",
        ),
        (
            "hard.month_usd = 0.0",
            "hard.month_usd: a budget of 0.0: must be above 0; to have none, leave it out",
        ),
        ("hard.day_usd = true", "hard.day_usd: expected int | float | str, got bool"),
        ("hard.day_tokens = 0", "hard.day_tokens: expected int >= 1"),
        ("hard.day_tokens = 1.5", "hard.day_tokens: expected int, got float"),
        ("hard.week_tokens = 5", "hard.week_tokens: unknown key"),
        (
            "hard.day_tokens = 5\nsoft.day_tokens = 5",
            "soft.day_tokens: nobody is warned, since the hard one is not higher",
        ),
        (
            "hard.day_usd = 5\nsoft.day_usd = '5.01'",
            "soft.day_usd: nobody is warned, since the hard one is not higher",
        ),
    ],
)
def test_an_impossible_budget_is_told_with_its_place(budget: str, problem: str) -> None:
    (found,) = problems(f"{PRICED}[tenants.t.budget]\n{budget}")

    assert found.startswith(f"$.tenants.t.budget.{problem}")


def test_dollars_that_nobody_could_spend_are_a_mistake() -> None:
    free = A + "[models.m]\nengines = ['a']\n[tenants.t.budget]\nhard.day_usd = 5"

    assert problems(free) == [
        "$.tenants.t.budget.hard.day_usd: would never be used, since no model that this tenant may "
        "use has a price"
    ]


def test_budgets_in_all_shapes_are_accepted() -> None:
    hard = "hard = { day_usd = 5, month_usd = '99.5', day_tokens = 10, month_tokens = 200 }"
    soft = "soft = { day_usd = 4.99, month_tokens = 100 }"

    assert problems(f"{PRICED}[tenants.t.budget]\n{hard}\n{soft}") == []


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        (
            "[devices.gpu-1]\nusd_per_hour = 2",
            "$.devices.gpu-1: no engine is on it (they are on: cpu)",
        ),
        (
            "[devices.cpu]\nusd_per_hour = -1",
            "$.devices.cpu.usd_per_hour: a price of -1: must be from 0 to 1000000 dollars",
        ),
    ],
)
def test_a_device_has_engines_and_a_possible_price(devices: str, problem: str) -> None:
    assert problems(A + f"[models.m]\nengines = ['a']\n{devices}") == [problem]
