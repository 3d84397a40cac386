"""Which rows of the run log are flagged."""

from services.metering.domain.unusual import History, judge


def test_far_from_the_median_is_unusual_and_says_why() -> None:
    verdict = judge(48_000, History(200, 4_000.0, 500.0), "call")

    assert verdict.z > 50
    assert verdict.reason == (
        "48,000 tokens, 12.0 times the usual 4,000 of this subject's calls: 59.4 robust standard deviations above the "
        "median of 200 calls"
    )
    assert "below" in judge(0, History(200, 4_000.0, 500.0), "run").reason


def test_usual_rows_and_short_histories_are_not() -> None:
    assert judge(5_000, History(200, 4_000.0, 500.0), "call").reason == ""
    assert judge(10**9, History(9, 1.0, 0.0), "call") == (0.0, "")
    assert judge(10**9, None, "call") == (0.0, "")


def test_where_all_rows_are_alike_a_little_more_is_usual() -> None:
    assert judge(1_100, History(50, 1_000.0, 0.0), "call").reason == ""
    assert judge(1_300, History(50, 1_000.0, 0.0), "call").reason
    assert "usually has none" in judge(50, History(50, 0.0, 0.0), "call").reason
