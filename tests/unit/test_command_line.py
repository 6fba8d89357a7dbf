"""Commands that are printed can be run as they stand."""

from __future__ import annotations

import os

import pytest

from sfumato.runtime.command_line import command_line

WORDS = ["sfumato", "data", "doctor", "my photos", "--as", "<fox>", "--class", 'a "red" fox', r"C:\photos\a-b.png"]


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("posix", """sfumato data doctor 'my photos' --as '<fox>' --class 'a "red" fox' 'C:\\photos\\a-b.png'"""),
        ("nt", r"""sfumato data doctor "my photos" --as "<fox>" --class "a \"red\" fox" C:\photos\a-b.png"""),
    ],
)
def test_words_are_quoted_as_the_shell_reads_them(system: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", system)
        written = command_line(WORDS)
    assert written == text
