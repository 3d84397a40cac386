"""The SQL that compares what is folded with what it was folded from."""

from typing import Final

from services.metering.store.columns import SUMS

# What is folded, but for hours that usage came to since; of the time that usage may still come to.
_SUM_LIST: Final = ", ".join(f"sum({column})" for column in SUMS)
_FOLD_KEYS: Final = "org, hours, bucket, subject, provider, model, operation, currency"
_SCOPE_KEYS: Final = "org, scope, hours, bucket, provider, model, operation, currency"
_PAIRS: Final = """
CROSS JOIN LATERAL (
    SELECT p.parts, generate_series(1, cardinality(p.parts) / 2) AS depth
    FROM (SELECT string_to_array(s.subject, '/') AS parts) AS p
) AS n
"""
_SETTLED: Final = """
NOT EXISTS (
    SELECT FROM usage_late l
    WHERE l.org = d.org AND l.hour >= d.bucket AND l.hour < d.bucket + d.hours * interval '1 hour')
"""
_FOLDS_DIFFER: Final = f"""
WITH summed AS (
    SELECT org, w.hours, date_bin(w.hours * interval '1 hour', bucket, 'epoch'::timestamptz) AS bucket, subject,
           provider, model, operation, currency, ARRAY[{_SUM_LIST}] AS sums
    FROM (VALUES (1::bigint), (24)) AS w (hours)
    JOIN usage_rollups ON bucket >= $2 AND bucket < (
        SELECT date_bin(w.hours * interval '1 hour', folded, 'epoch'::timestamptz) FROM usage_fold WHERE org = '-')
    WHERE $1::text IS NULL OR org = $1 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), kept AS (
    SELECT {_FOLD_KEYS}, ARRAY[{", ".join(SUMS)}] AS sums FROM usage_periods
    WHERE bucket >= $2 AND ($1::text IS NULL OR org = $1)
), d AS (
    SELECT {_FOLD_KEYS} FROM summed FULL JOIN kept USING ({_FOLD_KEYS}) WHERE summed.sums IS DISTINCT FROM kept.sums
)
SELECT count(*) OVER () AS offenders,
       concat_ws(' ', subject, bucket, hours || ' h', provider, model, operation, currency) AS name
FROM d WHERE {_SETTLED} LIMIT $3
"""  # noqa: S608 - of constants
_SCOPES_DIFFER: Final = f"""
WITH summed AS (
    SELECT org, array_to_string(n.parts[1:2 * n.depth], '/') COLLATE "C" AS scope, hours, bucket, provider, model,
           operation, currency, ARRAY[{_SUM_LIST}] AS sums
    FROM usage_periods s {_PAIRS}
    WHERE bucket >= $2 AND ($1::text IS NULL OR org = $1) GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), kept AS (
    SELECT {_SCOPE_KEYS}, ARRAY[{", ".join(SUMS)}] AS sums FROM usage_scopes
    WHERE bucket >= $2 AND ($1::text IS NULL OR org = $1)
)
SELECT count(*) OVER () AS offenders,
       concat_ws(' ', scope, bucket, hours || ' h', provider, model, operation, currency) AS name
FROM summed FULL JOIN kept USING ({_SCOPE_KEYS}) WHERE summed.sums IS DISTINCT FROM kept.sums LIMIT $3
"""  # noqa: S608 - of constants
_FOLDED_SESSIONS_DIFFER: Final = f"""
WITH named AS (
    SELECT DISTINCT org, array_to_string(n.parts[1:2 * n.depth], '/') COLLATE "C" AS scope,
           date_bin('1 hour', bucket, 'epoch'::timestamptz) AS bucket, session, true AS here
    FROM usage_sessions s {_PAIRS}
    WHERE bucket >= $2 AND bucket < (SELECT folded FROM usage_fold WHERE org = '-')
      AND ($1::text IS NULL OR org = $1)
), kept AS (
    SELECT org, scope, bucket, session, true AS here FROM usage_scope_sessions
    WHERE bucket >= $2 AND ($1::text IS NULL OR org = $1)
), d AS (
    SELECT org, scope, bucket, session, 1 AS hours FROM named FULL JOIN kept USING (org, scope, bucket, session)
    WHERE named.here IS NULL OR kept.here IS NULL
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', scope, bucket, session) AS name FROM d WHERE {_SETTLED} LIMIT $3
"""  # noqa: S608 - of constants

CHECKS: Final = (
    ("I2.folds_equal_rollups", "sums of hours and days", _FOLDS_DIFFER),
    ("I2.scopes_equal_folds", "sums of subtrees", _SCOPES_DIFFER),
    ("I2.folded_sessions", "sessions of folded hours", _FOLDED_SESSIONS_DIFFER),
)
"""Names, what is compared, and statements of offenders; they take an organisation or NULL, from when, and how many."""
