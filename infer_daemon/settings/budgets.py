"""Budgets as they are configured, as integers; and what is wrong with them."""

from collections.abc import Iterator

from infer_daemon.domain.money import nano_usd
from infer_daemon.settings.schema import BudgetLimitsSection, Settings, TenantSection

KEYS = BudgetLimitsSection.__struct_fields__
"""PERIOD_UNIT each: `day_usd`."""


def limit(section: BudgetLimitsSection, key: str) -> int | None:
    """So many tokens or nano-dollars; None for no budget.

    Raises:
        ValueError: why no budget can be that.
    """
    value: int | float | str | None = getattr(section, key)
    if value is None or key.endswith("_tokens"):
        assert value is None or isinstance(value, int), "the schema takes no other tokens"
        return value
    found = nano_usd(value, "a budget of")
    if not found:
        raise ValueError(f"a budget of {value}: must be above 0; to have none, leave it out")
    return found


def problems(settings: Settings) -> Iterator[str]:
    """Every breach as `path: what is wrong`."""
    for name, tenant in settings.tenants.items():
        path = f"$.tenants.{name}.budget"
        for kind, section in (("hard", tenant.budget.hard), ("soft", tenant.budget.soft)):
            for key in KEYS:
                if why := _why_not(section, key, is_free=_is_free(settings, tenant)):
                    yield f"{path}.{kind}.{key}: {why}"
        for key in KEYS:
            if _comes_too_late(tenant, key):
                yield f"{path}.soft.{key}: nobody is warned, since the hard one is not higher"


def _why_not(section: BudgetLimitsSection, key: str, *, is_free: bool) -> str:
    try:
        found = limit(section, key)
    except ValueError as error:
        return str(error)
    if found is not None and is_free and key.endswith("_usd"):
        return "would never be used, since no model that this tenant may use has a price"
    return ""


def _is_free(settings: Settings, tenant: TenantSection) -> bool:
    found = (settings.models.get(name) for name in tenant.models or settings.models)
    return not any(model is not None and model.price is not None for model in found)


def _comes_too_late(tenant: TenantSection, key: str) -> bool:
    try:
        soft, hard = limit(tenant.budget.soft, key), limit(tenant.budget.hard, key)
    except ValueError:
        return False
    return soft is not None and hard is not None and soft >= hard
