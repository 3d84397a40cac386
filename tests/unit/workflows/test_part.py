from workflows.part import Part, by_queue


class One: ...


class Two: ...


class Three: ...


def first() -> None: ...


def second() -> None: ...


def test_what_shares_a_queue_shares_a_worker() -> None:
    parts = [Part("a", [One], [first]), Part("b", [Two], []), Part("a", [Three], [second])]
    assert by_queue(parts) == [Part("a", [One, Three], [first, second]), Part("b", [Two], [])]
