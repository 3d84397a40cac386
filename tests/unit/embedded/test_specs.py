from dataclasses import fields
from pathlib import Path

import pytest

from embedded import specs
from embedded.child import ChildSpec
from embedded.specs import Configuration, ConfigurationError, Ports

DSNS = {
    f"PURSE_{service}_{kind}": f"postgresql://{service}-{kind}@db/x"
    for service in ("METERING", "BUDGET", "WALLET")
    for kind in ("DSN", "OWNER_DSN")
}


def configure(directory: Path, environ: dict[str, str] | None = None) -> Configuration:
    return Configuration(directory, Ports(), {"PATH": "/bin", **(environ or {})})


def children(configuration: Configuration) -> dict[str, ChildSpec]:
    return {spec.name: spec for spec in specs.build(configuration) if isinstance(spec, ChildSpec)}


def test_the_default_ports_are_the_documented_ones() -> None:
    documented = (7400, 7401, 7402, 7403, 7405, 7406, 7407, 7408, 7411, 7412, 7413, 7414)
    assert documented == tuple(getattr(Ports(), field.name) for field in fields(Ports))


def test_every_child_binds_ports_of_its_own(tmp_path: Path) -> None:
    bound = [port for child in children(configure(tmp_path)).values() for port in child.ports.values()]
    assert sorted(bound) == sorted(set(bound))
    assert set(bound) == {getattr(Ports(), field.name) for field in fields(Ports)}


def test_a_process_gets_its_own_settings_and_no_others(tmp_path: Path) -> None:
    secrets = {"STRIPE_API_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRET": "whsec_x", "PURSE_BIND": "stray", **DSNS}
    configuration = configure(tmp_path, secrets)
    for process in ("metering", "budget", "wallet", "gateway", "worker"):
        given = configuration.environ(process)
        databases = {name for name in given if name.endswith("_DSN")}
        assert databases == ({f"PURSE_{process.upper()}_DSN"} if process in specs.GRPC_SERVICES else set())
        assert ("PURSE_STRIPE_API_KEY" in given) == (process in ("wallet", "worker"))
        assert not [name for name in given if name.startswith("STRIPE_")]
        assert "stray" not in given.values()
        assert "/bin" == given["PATH"]


def test_no_secret_is_on_a_command_line(tmp_path: Path) -> None:
    configuration = configure(tmp_path)
    secrets = [configuration.webhook_secret(), configuration.dsn("wallet", "service").split(":")[2].split("@")[0]]
    for child in children(configuration).values():
        assert not [part for part in child.argv for secret in secrets if secret in part]


def test_settings_of_the_user_pass_through(tmp_path: Path) -> None:
    given = configure(tmp_path, {"PURSE_LOG_LEVEL": "debug", "PURSE_QUEUE_ITEMS_MAX": "5"}).environ("budget")
    assert ("debug", "5") == (given["PURSE_LOG_LEVEL"], given["PURSE_QUEUE_ITEMS_MAX"])


def test_parts_that_are_given_are_not_embedded(tmp_path: Path) -> None:
    everything = configure(tmp_path, {**DSNS, "PURSE_TEMPORAL_ADDRESS": "temporal:7233", "STRIPE_API_KEY": "sk_test_x"})
    found = children(everything)
    assert {"wallet", "budget", "metering", "gateway", "worker"} == set(found)
    assert DSNS["PURSE_WALLET_DSN"] == found["wallet"].environ["PURSE_WALLET_DSN"]
    assert "temporal:7233" == found["worker"].environ["PURSE_TEMPORAL_ADDRESS"]
    assert "" == found["worker"].environ["PURSE_STRIPE_BASE_URL"]
    assert {"postgres", "temporal-ui", "twin"}.isdisjoint(specs.endpoints(everything))


def test_a_database_address_that_is_missing_is_named(tmp_path: Path) -> None:
    incomplete = {name: dsn for name, dsn in DSNS.items() if name != "PURSE_BUDGET_OWNER_DSN"}
    with pytest.raises(ConfigurationError, match="set PURSE_BUDGET_OWNER_DSN"):
        configure(tmp_path, incomplete)


def test_a_part_brings_what_it_waits_for_and_nothing_else(tmp_path: Path) -> None:
    nodes = specs.only(specs.build(configure(tmp_path)), frozenset({"budget"}))
    assert ["postgres", "keys", "migrate-budget", "budget"] == [node.name for node in nodes]
    budget = nodes[-1]
    assert isinstance(budget, ChildSpec)
    assert ("postgres",) == budget.uses


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="bugdet"):
        specs.only(specs.build(configure(tmp_path)), frozenset({"bugdet"}))


def test_every_variable_says_what_it_means_and_reaches_someone() -> None:
    assert len({variable.name for variable in specs.VARIABLES}) == len(specs.VARIABLES)
    assert all(variable.meaning and variable.to for variable in specs.VARIABLES)
