"""One-line messages that name the nearest valid name."""

from pathlib import Path

import numpy as np
import pytest

from reszoo.errors import (
    LARGEST,
    SpecError,
    choice,
    closest,
    integer,
    nearby,
    number,
    plain,
    shown,
    switch,
    unknown,
)


def test_closest() -> None:
    allowed = ["Shortcuts", "depth", "degradation"]
    assert closest("shortcut", allowed) == "Shortcuts"
    assert closest("DEPHT", allowed) == "depth"
    assert closest("optimizer", allowed) is None
    assert closest("a", []) is None


def test_closest_prefers_the_nearest_number_and_ignores_order() -> None:
    names = ["resnet32", "resnet20", "resnet110"]
    assert closest("resnet21", names) == closest("resnet21", names[::-1]) == "resnet20"


def test_unknown() -> None:
    assert unknown("grid", "shortcut", ["shortcuts", "depth"]) == (
        'unknown grid "shortcut"; did you mean "shortcuts"? Allowed: shortcuts, depth'
    )
    assert unknown("grid", "x", {"b", "a"}) == 'unknown grid "x". Allowed: a, b'
    assert unknown("grid", "x", []) == 'unknown grid "x". Allowed: (none)'
    assert unknown("grid", "x\ny", ["a"]) == 'unknown grid "x y". Allowed: a'
    assert "99 in all" in unknown("grid", "x", [f"n{i:02}" for i in range(99)])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.int8(3), 3),
        (np.uint64(2**40), 2**40),
        (np.array(3), 3),
        (np.float16(0.5), 0.5),
        (np.float32(0.25), 0.25),
        (np.array(0.5, np.float32), 0.5),
        (np.bool_(True), True),
        (np.False_, False),
    ],
)
def test_numbers_of_numpy_are_plain_ones(given: object, expected: object) -> None:
    assert plain(given) == expected and type(plain(given)) is type(expected)


@pytest.mark.parametrize("given", ["3", None, (3,), [3]])
def test_what_is_no_number_stays(given: object) -> None:
    assert plain(given) is given


def test_integers_numbers_and_switches() -> None:
    assert integer("n", np.int64(4)) == 4 and integer("n", 0, 0) == 0
    assert integer("n", LARGEST) == LARGEST and integer("n", 10**30, most=np.inf) == 10**30
    assert type(number("x", np.float32(0.5))) is float and number("x", 2) == 2.0
    assert switch("s", np.True_) is True and switch("s", np.bool_(False)) is False


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: integer("n", 0), "n takes a positive integer, not 0"),
        (lambda: integer("n", 2.0), "n takes a positive integer, not 2.0"),
        (lambda: integer("n", True), "n takes a positive integer, not True"),
        (lambda: integer("n", -1, 0), "n takes an integer of at least 0, not -1"),
        (lambda: integer("n", 11, most=9), "n takes a positive integer of at most 9, not 11"),
        (lambda: integer("n", 10**5000), f"of at most {LARGEST}, not a very large int"),
        (lambda: integer("n", np.array([[1], [2]])), "not array([[1], [2]])"),
        (lambda: number("x", True), "x takes a finite number, not True"),
        (lambda: number("x", float("inf")), "x takes a finite number, not inf"),
        (lambda: number("x", np.float32("nan")), "x takes a finite number, not np.float32(nan)"),
        (lambda: number("x", 10**400), "x takes a finite number, not 1000"),
        (lambda: number("x", 2, "1", lambda v: v == 1), "x takes 1, not 2"),
        (lambda: switch("s", 1), "s takes True or False, not 1"),
        (lambda: switch("s", np.array([True, False])), "s takes True or False, not array"),
        (lambda: choice("word", "avgg", (None, "avg")), 'did you mean "avg"? Allowed: None, avg'),
        (lambda: choice("word", np.array(["avg", "max"]), ("avg",)), "unknown word"),
        (lambda: choice("word", None, ("avg",)), 'unknown word "None"'),
        (lambda: choice("word", "x" * 10**6, ("avg",)), "unknown word"),
    ],
)
def test_refusals_are_one_short_line(call, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        call()
    message = str(caught.value)
    assert text in message and "\n" not in message and len(message) < 500


def test_shown_is_one_line() -> None:
    assert shown("a\nb") == repr("a\nb") and shown("a\n b", str) == "a b"
    assert shown([10**5000]) == "a very large list" and len(shown("x" * 1000, most=10)) == 11


def test_nearby(tmp_path: Path) -> None:
    (tmp_path / "resnet.keras").write_bytes(b"")
    assert nearby(tmp_path / "resnt.keras") == '; did you mean "resnet.keras"?'
    assert nearby(tmp_path / "other") == nearby(tmp_path / "none" / "x") == nearby(Path("\0")) == ""
