"""A notice is written once, however its transaction ends the first time."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tests.support.budget import refusals, rows, running_budget, usage
from tests.support.cutting_proxy import cutting_proxy


async def test_a_notice_is_written_though_its_first_transaction_is_lost(database: Any, tmp_path: Path) -> None:
    base = database("budget")
    async with (
        cutting_proxy(base.service_dsn) as proxy,
        running_budget(base, tmp_path, budget_dsn=SecretStr(proxy.dsn), sweep_interval_s=60) as budget,
    ):
        held = await budget.reserve(model="one", provider="acme")
        events = [usage(reservation=held.reservation, model="another", final=False) for _ in range(3)]
        proxy.cut_before_commit = True
        for event in events:
            assert refusals(await budget.apply(event)) == [""]
        assert proxy.cuts == 1
        written = await rows(base, "SELECT kind FROM alerts")
        assert [row["kind"] for row in written] == ["MODEL_DIFFERS"]
        assert len(await rows(base, "SELECT FROM outbox WHERE topic = 'alerts'")) == 1
