"""A sample of what `make prove-budget` runs for long: the service against a plain model of its rules."""

from proofs.budget import machine, model
from tests.support.databases import Databases


def test_the_service_does_what_the_model_says(databases: Databases) -> None:
    database = databases.create("budget")
    try:
        with model.world(database.owner_dsn, database.service_dsn) as made:
            machine.run(made, examples=12, steps=30)
    finally:
        databases.drop(database)
