"""Views for people with a SQL shell or Datasette. Dollars here are floats, for reading: sums that
matter are made of the nano-dollars in the tables."""

_DAY = "date(hour_at_us / 1000000, 'unixepoch')"

VIEWS = {
    "settled": """
        SELECT *,
            datetime(accepted_at_us / 1000000, 'unixepoch') AS accepted_at,
            price_input_nano_usd + price_cached_nano_usd + price_output_nano_usd AS price_nano_usd,
            first_token_us / 1000.0 AS ttft_ms,
            (granted_us - rendered_us) / 1000.0 AS wait_ms,
            settled_us / 1000.0 AS total_ms
        FROM requests WHERE outcome <> 'open'
    """,
    "spend_by_tenant_day": f"""
        SELECT {_DAY} AS day, tenant,
            sum(requests) AS requests,
            sum(prompt_tokens) AS prompt_tokens,
            sum(cached_tokens) AS cached_tokens,
            sum(completion_tokens) AS completion_tokens,
            sum(price_nano_usd) / 1e9 AS price_usd,
            sum(compute_nano_usd) / 1e9 AS compute_usd
        FROM hours GROUP BY day, tenant ORDER BY day DESC, price_usd DESC
    """,
    "cost_by_model_day": f"""
        SELECT {_DAY} AS day, model,
            sum(requests) AS requests,
            sum(prompt_tokens + completion_tokens) AS tokens,
            sum(price_nano_usd) / 1e9 AS price_usd,
            sum(compute_nano_usd) / 1e9 AS compute_usd,
            sum(compute_nano_usd) / 1e3 / nullif(sum(prompt_tokens + completion_tokens), 0)
                AS compute_usd_per_million_tokens
        FROM hours GROUP BY day, model ORDER BY day DESC, compute_usd DESC
    """,
    "waste_by_cause": " UNION ALL ".join(
        f"SELECT '{cause}' AS cause, coalesce(sum(waste_{cause}_tokens), 0) AS tokens FROM requests"
        for cause in ("disconnect", "continuation", "preemption", "fallback")
    ),
    "slowest": """
        SELECT id, datetime(accepted_at_us / 1000000, 'unixepoch') AS accepted_at, tenant, model,
            engine, tier, outcome, code, prompt_tokens, completion_tokens,
            (granted_us - rendered_us) / 1000.0 AS wait_ms,
            first_token_us / 1000.0 AS ttft_ms, settled_us / 1000.0 AS total_ms
        FROM requests WHERE outcome <> 'open' ORDER BY settled_us DESC LIMIT 100
    """,
}
