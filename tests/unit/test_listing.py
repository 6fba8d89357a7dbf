"""The conventions of a subject's folder: text files, metadata.jsonl, numbered folders; what is refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from broken_folders import BROKEN, Broken, good_folder, photo
from sfumato.data.images import list_images, require_folder
from sfumato.data.listing import Entry, list_entries, scan_folder, visible
from sfumato.errors import CaptionMissing, DataError, EmptyDataset


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(0, 8, 8).save(path)
    return path


def metadata(folder: Path, **captions: str) -> None:
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def captions(folder: Path) -> dict[str, str]:
    return {entry.name: entry.caption("a <fox>") for entry in list_entries(folder)}


def test_text_files(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.PNG")
    (tmp_path / "a.txt").write_text("my\nfox")
    assert captions(tmp_path) == {"a.png": "my fox", "b.PNG": "a <fox>"}


def test_text_files_in_upper_case_and_those_of_kohya(tmp_path: Path) -> None:
    picture(tmp_path / "IMG_1.JPG")
    picture(tmp_path / "2_fox" / "a.png")
    (tmp_path / "IMG_1.TXT").write_text("my fox")
    (tmp_path / "2_fox" / "a.caption").write_text("your fox")
    metadata(tmp_path, **{"IMG_1.JPG": "not read", "2_fox/a.png": "not read"})
    assert captions(tmp_path) == {"IMG_1.JPG": "my fox", "2_fox/a.png": "your fox"}


def test_metadata(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "below/d.png"):
        picture(tmp_path / name)
    metadata(tmp_path, **{"a.png": "one\nfox", "b.png": "", "./c.png": "not read", "below/d.png": "deep"})
    (tmp_path / "c.txt").write_text("by hand")
    assert captions(tmp_path) == {"a.png": "one fox", "b.png": "a <fox>", "c.png": "by hand", "below/d.png": "deep"}
    assert scan_folder(tmp_path).problems == ()


def test_numbered_folders(tmp_path: Path) -> None:
    picture(tmp_path / "10_sks dog" / "a.png")
    picture(tmp_path / "10_sks dog" / "b.png")
    picture(tmp_path / "2_my_dog" / "a.png")
    picture(tmp_path / "2_my_dog" / "c.png")
    (tmp_path / "10_sks dog" / "a.txt").write_text("a dog in snow")
    metadata(tmp_path / "2_my_dog", **{"c.png": "a dog asleep"})
    assert [(entry.name, entry.repeats, entry.caption()) for entry in list_entries(tmp_path)] == [
        ("10_sks dog/a.png", 10, "a dog in snow"),
        ("10_sks dog/b.png", 10, "sks dog"),
        ("2_my_dog/a.png", 2, "my_dog"),
        ("2_my_dog/c.png", 2, "a dog asleep"),
    ]


def test_metadata_above_numbered_folders(tmp_path: Path) -> None:
    picture(tmp_path / "3_fox" / "a.png")
    metadata(tmp_path, **{"3_fox/a.png": "a fox in snow"})
    assert list_entries(tmp_path) == [Entry(tmp_path / "3_fox" / "a.png", "3_fox/a.png", 3, "a fox in snow", "fox")]


def test_other_folders_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", "old/c.png", ".git/d.png", "old_ones/e.png"):
        picture(tmp_path / name)
    assert list(captions(tmp_path)) == ["a.png"]
    assert [path.name for path in visible(tmp_path)] == ["a.png", "c.png", "e.png"]


def test_a_caption_is_needed_without_a_default(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(CaptionMissing, match="a.png has no caption: there is no a.txt or a.caption beside it"):
        list_entries(tmp_path)[0].caption()


@pytest.mark.parametrize(
    "broken",
    [item for item in BROKEN if item.kind.startswith(("metadata", "bad-repeats")) and item.severity == "error"],
    ids=lambda broken: f"{broken.kind}-{broken.found}",
)
def test_what_the_doctor_calls_an_error_is_refused(broken: Broken, tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "data")
    broken.build(folder)
    with pytest.raises(DataError) as caught:
        list_entries(folder)
    assert caught.value.message.startswith(f"{folder / broken.where}: ")
    assert broken.found in caught.value.message


def test_a_forgotten_number_is_named_where_nothing_else_can_be_read(tmp_path: Path) -> None:
    picture(tmp_path / "sks_dog" / "a.png")
    with pytest.raises(DataError, match="'sks_dog' has no number of repeats in front and holds 1 picture"):
        list_entries(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "holds no pictures (0 other entries)"), (("photos/a.png",), "holds no pictures (1 other entries)")],
)
def test_no_pictures(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in names:
        picture(tmp_path / name)
    with pytest.raises(EmptyDataset) as caught:
        list_entries(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path} {message}")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone does not exist; a folder of pictures is needed"):
        list_entries(tmp_path / "gone")
    with pytest.raises(DataError, match="a.png is a file; a folder of pictures is needed"):
        list_entries(picture(tmp_path / "a.png"))


def lock(monkeypatch: pytest.MonkeyPatch, name: str, method: str = "iterdir") -> None:
    """Let the system refuse what one folder holds, as it does to all but root."""
    original = getattr(Path, method)

    def refuse(self: Path) -> Iterator[Path] | bool:
        if name == (self.name if method == "iterdir" else self.parent.name):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        answer: Iterator[Path] | bool = original(self)
        return answer

    monkeypatch.setattr(Path, method, refuse)


@pytest.mark.parametrize("method", ["iterdir", "is_file"])
def test_a_folder_below_that_cannot_be_opened_is_passed_over(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")
    within = picture(tmp_path / "lost+found" / "b.png")
    lock(monkeypatch, "lost+found", method)
    assert list(captions(tmp_path)) == ["a.png"]
    (found,) = scan_folder(tmp_path).problems
    assert (found.kind, found.severity, found.path) == ("unopened-folder", "warning", tmp_path / "lost+found")
    assert found.found == "Permission denied" + (f" ('{within}')" if method == "is_file" else "")
    assert [path.name for path in visible(tmp_path)] == (["a.png", "b.png"] if method == "iterdir" else ["a.png"])


def test_folders_that_cannot_be_opened_and_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "data" / "3_fox" / "a.png")
    picture(tmp_path / "data" / "2_dog" / "a.png")
    with monkeypatch.context() as patch:
        lock(patch, "3_fox")
        with pytest.raises(DataError, match="3_fox: cannot be opened: Permission denied. Check its permissions"):
            list_entries(tmp_path / "data")
        assert [entry.name for entry in scan_folder(tmp_path / "data").entries] == ["2_dog/a.png"]
    with monkeypatch.context() as patch:
        lock(patch, "data")
        for read in (list_entries, list_images):
            with pytest.raises(DataError, match="data: cannot be opened: Permission denied. Check its permissions"):
                read(tmp_path / "data")
    lock(monkeypatch, tmp_path.name, "is_dir")
    with pytest.raises(DataError, match="data: cannot be opened: Permission denied. Check its permissions"):
        require_folder(tmp_path / "data")


def test_a_table_of_captions(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a fox\nb.png,a fox\n')
    (problem,) = scan_folder(tmp_path).problems
    assert (problem.kind, problem.found) == ("metadata-table", "line 3: unexpected end of data")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,3\n")
    (problem,) = scan_folder(tmp_path).problems
    assert (problem.severity, problem.kind) == ("warning", "metadata-unread")
    text = '\ufefffile_name,text,score\na.png,"a fox, asleep",3\nb.png,"one\nfox",\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    assert captions(tmp_path) == {"a.png": "a fox, asleep", "b.png": "one fox", "c.png": "a <fox>"}
    (problem,) = scan_folder(tmp_path).problems
    assert (problem.kind, problem.found) == ("metadata-unknown-key", "'score' in 2 lines")
    metadata(tmp_path, **{"c.png": "by lines"})
    assert captions(tmp_path) == {"a.png": "a <fox>", "b.png": "a <fox>", "c.png": "by lines"}


def test_numbered_folders_that_are_links_are_seen_and_no_others(tmp_path: Path) -> None:
    seen = picture(tmp_path / "elsewhere" / "a.png")
    (seen.parent / "b.txt").write_text("a fox")
    (seen.parent / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "2_fox").symlink_to(seen.parent)
    (tmp_path / "data" / "archive").symlink_to(seen.parent)
    assert [path.relative_to(tmp_path).as_posix() for path in visible(tmp_path / "data")] == [
        "data/2_fox/a.png",
        "data/2_fox/b.txt",
    ]
    (tmp_path / "data" / "archive").unlink()
    assert [entry.name for entry in list_entries(tmp_path / "data")] == ["2_fox/a.png"]
    (tmp_path / "data" / ".#fox.png").symlink_to("nobody@nowhere")
    assert len(list_entries(tmp_path / "data")) == 1


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"b\.png: link that leads nowhere: it leads to '.*gone\.png', which"):
        list_entries(tmp_path)


def test_what_lessons_have_written_is_no_data(tmp_path: Path) -> None:
    picture(tmp_path / "2_fox" / "a.png")
    for name in ("fox.verdict", "fox.run"):
        picture(tmp_path / name / "report.png")
    (tmp_path / "fox.verdict" / "scores.json").write_text("{}")
    (tmp_path / "fox.run" / "events.jsonl").write_text("")
    assert captions(tmp_path) == {"2_fox/a.png": "fox"}
    assert [path.name for path in visible(tmp_path)] == ["a.png"]
    (tmp_path / "fox.verdict" / "scores.json").unlink()
    with pytest.raises(DataError, match="'fox.verdict' has no number of repeats in front"):
        list_entries(tmp_path)


@pytest.mark.parametrize("name", ["fox-condlabel.png", "fox-masklabel.png", "fox.mask.png"])
def test_files_beside_pictures_are_none(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "fox.jfif")
    picture(tmp_path / name)
    assert captions(tmp_path) == {"fox.jfif": "a <fox>"}


def test_a_numbered_folder_needs_a_name_that_can_be_a_caption(tmp_path: Path) -> None:
    picture(tmp_path / "10_fox" / "a.png")
    picture(tmp_path / os.fsdecode(b"10_gr\xf6\xdfe") / "a.png")
    with pytest.raises(DataError, match="its name is not UTF-8, so it cannot be a caption"):
        list_entries(tmp_path)
