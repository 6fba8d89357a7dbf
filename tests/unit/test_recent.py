"""The results that were asked for last stay at hand, and no more of them than allowed."""

from __future__ import annotations

from collections.abc import Callable

from sfumato.runtime.recent import Recent


def test_what_was_asked_for_the_longest_ago_goes_first() -> None:
    kept: Recent[str, int] = Recent(2)
    made: list[str] = []

    def of(key: str) -> Callable[[], int]:
        def make() -> int:
            made.append(key)
            return len(made)

        return make

    assert [kept.get(key, of(key)) for key in "abacab"] == [1, 2, 1, 3, 1, 4]
    assert made == ["a", "b", "c", "b"] and len(kept) == 2
    kept.clear()
    assert len(kept) == 0 and kept.get("a", of("a")) == 5
