"""One-line messages that name the nearest valid name."""

from reszoo.errors import closest, unknown


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
