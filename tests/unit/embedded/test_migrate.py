import pytest

from services.kit import migrate


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@127.0.0.1:5/d", "postgresql://u:p@127.0.0.1:5/d?sslmode=disable"),
        ("postgresql://u:p@localhost/d?x=1", "postgresql://u:p@localhost/d?x=1&sslmode=disable"),
        ("postgresql://u:p@[::1]:5/d", "postgresql://u:p@[::1]:5/d?sslmode=disable"),
        # What is said is kept, and what leaves the machine keeps dbmate's default, which requires TLS.
        ("postgresql://u:p@127.0.0.1:5/d?sslmode=require", "postgresql://u:p@127.0.0.1:5/d?sslmode=require"),
        ("postgresql://u:p@db.example:5/d", "postgresql://u:p@db.example:5/d"),
    ],
)
def test_tls_is_off_only_where_nothing_leaves_the_machine(dsn: str, expected: str) -> None:
    assert expected == migrate._with_ssl_mode(dsn)


def test_a_failure_names_the_migration_and_hides_the_password() -> None:
    output = "Applying: 0001_a.sql\nApplied: 0001_a.sql in 3ms\nApplying: 0002_b.sql\nError: pq: no s3cret\n"
    text = migrate._failure("wallet", output, "postgresql://u:s3cret@h/d")
    assert "migrating wallet failed, migration 0002_b.sql: pq: no ***" == text


def test_an_unknown_service_is_refused() -> None:
    with pytest.raises(migrate.MigrationError, match="no service 'purse'"):
        migrate.migrations_dir("purse")
