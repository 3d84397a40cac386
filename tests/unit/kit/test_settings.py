"""Settings from the environment, and what is said of wrong ones."""

import pytest

from services.budget.settings import BudgetSettings


def test_every_required_setting_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURSE_SERVICE_TOKEN_FILE", "/tokens/service.token")
    with pytest.raises(SystemExit) as refused:
        BudgetSettings.load()
    assert str(refused.value) == (
        "set PURSE_BUDGET_DSN and PURSE_AUTH_PUBLIC_KEY_FILE: required, and without a default"
    )


def test_every_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURSE_BATCH_MAX", "many")
    monkeypatch.setenv("PURSE_SHUTDOWN_GRACE_S", "1000")
    with pytest.raises(SystemExit) as refused:
        BudgetSettings.load()
    lines = sorted(str(refused.value).splitlines())
    assert [line.partition(":")[0] for line in lines] == ["PURSE_BATCH_MAX", "PURSE_SHUTDOWN_GRACE_S"]
    assert "less than or equal to 300" in lines[1]
