"""What a dispute does next."""

from services.wallet.refunds.domain.rules import DisputeFacts, dispute_step


def facts(status: str, *, reinstated: bool = False) -> DisputeFacts:
    return DisputeFacts("dp_1", status, "fraudulent", True, reinstated, "pi_1", 2_000, "USD")


def test_a_dispute_freezes_once_whatever_it_can_debit() -> None:
    for room in (0, 5, 20):
        step = dispute_step(
            facts("lost"), amount=20, withdrawn=0, restored=0, room=room, froze=False, freeze_done=False
        )
        assert (room, True) == (step.debit, step.freeze)
    step = dispute_step(facts("lost"), amount=20, withdrawn=5, restored=0, room=15, froze=False, freeze_done=True)
    assert (15, False) == (step.debit, step.freeze)


def test_what_a_won_dispute_could_not_debit_is_not_debited_later() -> None:
    won = facts("won", reinstated=True)
    step = dispute_step(won, amount=20, withdrawn=5, restored=0, room=0, froze=True, freeze_done=True)
    assert (0, 5, False, True) == (step.debit, step.credit, step.freeze, step.thaw)
    step = dispute_step(won, amount=20, withdrawn=5, restored=5, room=20, froze=False, freeze_done=True)
    assert not step.moves
