"""Findings and tables as text: the gravest first, one line a file, what to do once."""

from __future__ import annotations

import io
from pathlib import Path

from sfumato.cli.render import TerminalRenderer, event_record
from sfumato.cli.tables import SEVERITIES, findings_text, table_text
from sfumato.data.findings import KINDS, finding
from sfumato.events import Done, Event, Notice, Progress, Table

BLURRED = finding("blurred", Path("a/long name.png"), "sharpness 1.0")
CUT = finding("truncated", Path("a/x.jpg"), "9 bytes")
TABLE = Table("Sizes:", ("bucket", "pictures"), (("128 × 128", 3), ("96 × 160", 12)))


def test_findings_are_grouped_by_kind() -> None:
    advice = {kind: f"         → {KINDS[kind].meaning} {KINDS[kind].advice}" for kind in ("blurred", "truncated")}
    other = finding("blurred", Path("b.png"), "sharpness 2.0")
    assert findings_text([BLURRED, CUT, other]).splitlines() == [
        "error    cut short",
        "         a/x.jpg  9 bytes",
        advice["truncated"],
        "warning  blurred or nearly empty (2)",
        "         a/long name.png  sharpness 1.0",
        "         b.png            sharpness 2.0",
        advice["blurred"],
    ]


def test_of_many_files_the_first_five_are_shown() -> None:
    text = findings_text([finding("blurred", Path(f"{number}.png"), "x") for number in range(12)])
    assert "warning  blurred or nearly empty (12)" in text
    assert "4.png" in text and "5.png" not in text and "         and 7 more; --json names all" in text


def test_letters_that_a_terminal_would_obey_are_escaped() -> None:
    text = findings_text([finding("blurred", Path("a\udce9\x1b[2J.png"), "one\ntwo")])
    assert text.splitlines()[1] == "         a\\udce9\\x1b[2J.png  one\\ntwo"
    text.encode()


def test_numbers_stand_to_the_right() -> None:
    assert table_text(TABLE).splitlines() == [
        "Sizes:",
        "bucket     pictures",
        "128 × 128         3",
        "96 × 160         12",
    ]
    assert table_text(Table("", ("a",), ())) == "a"


def test_the_sample_in_the_docs_says_what_the_doctor_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "check-a-folder.md"
    sample = page.read_text(encoding="utf-8").split("```")[3].splitlines()
    heads = [line for line in sample if line.split(" ")[0] in SEVERITIES]
    assert len(heads) >= 5
    assert set(heads) <= {f"{kind.severity:9}{kind.title}" for kind in KINDS.values()}
    advice = {line.strip() for line in sample if "→" in line}
    assert advice <= {f"→ {kind.meaning} {kind.advice}" for kind in KINDS.values()}


def shown(*events: Event) -> list[str]:
    out = io.StringIO()
    with TerminalRenderer(out, io.StringIO()) as renderer:
        for event in events:
            renderer.show(event)
    return out.getvalue().splitlines()


def test_the_terminal_gathers_findings() -> None:
    lines = shown(BLURRED, Progress("looking", 1, 2), CUT, Notice(0, "then"), TABLE, Done(1.0))
    assert lines.index("error    cut short") < lines.index("warning  blurred or nearly empty") < lines.index("then")
    assert lines[-4:] == [*table_text(TABLE).splitlines(), "done in 1.0 s"][-4:]
    assert shown(CUT)[0] == "error    cut short"  # also where nothing follows


def test_machines_get_every_field() -> None:
    assert event_record(CUT) == {
        "event": "finding",
        "severity": "error",
        "kind": "truncated",
        "title": "cut short",
        "path": Path("a/x.jpg"),
        "found": "9 bytes",
        "meaning": KINDS["truncated"].meaning,
        "advice": KINDS["truncated"].advice,
    }
    assert event_record(TABLE)["rows"] == (("128 × 128", 3), ("96 × 160", 12))
