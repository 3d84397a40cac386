"""A sample of what `make prove-budget` runs for long: the service against a plain model of its rules."""

from bench import budget_machine, budget_model
from tests.support.databases import Databases


def test_the_service_does_what_the_model_says(databases: Databases) -> None:
    database = databases.create("budget")
    try:
        with budget_model.world(database.owner_dsn, database.service_dsn) as made:
            budget_machine.run(made, examples=12, steps=30)
    finally:
        databases.drop(database)
