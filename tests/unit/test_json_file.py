"""JSON files of others: what is wrong with one is said with its name, and errors of ours pass as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.errors import CheckpointError, UnknownFormat
from sfumato.runtime.json_file import naming, read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json' is missing. The folder is not complete; download or copy it again"),
        (b"{", "config.json' cannot be read as JSON: .* Download or copy it again"),
        (b'"\xff"', "config.json' cannot be read as JSON: 'utf-8' codec"),
        (b"[" * 200_000, "config.json' cannot be read as JSON: "),
        (b"[1]", "config.json' holds a list, a JSON object is needed"),
    ],
)
def test_a_file_that_holds_no_object_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json(file)
    assert caught.match(message)


def test_a_missing_file_may_stand_for_something(tmp_path: Path) -> None:
    assert read_json(tmp_path / "a.json", {"b": 1}) == {"b": 1}
    (tmp_path / "a.json").write_text('{"c": 2}')
    assert read_json(tmp_path / "a.json", {"b": 1}) == {"c": 2}


def test_values_that_make_the_reading_fail_are_named_once() -> None:
    for error in (TypeError("a"), ValueError("a"), KeyError("a"), AttributeError("a"), ZeroDivisionError("a")):
        with pytest.raises(CheckpointError) as caught, naming(Path("base")):
            raise error
        assert caught.value.message == f"'base' holds a value that nothing can be made of: {error!r}."
    with pytest.raises(UnknownFormat, match=r"^mine$"), naming(Path("base")):
        raise UnknownFormat("mine")
