"""What names of numbered folders say of a subject: `10_sks dog` holds the word that kohya's trainer knows it by.

That word is no caption: learned beside the user's own, it would be needed in every prompt. And where kohya's trainer
learns several subjects from several such folders, all of them would be learned as one here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.data.findings import finding, refusal
from sfumato.data.listing import Entry
from sfumato.events import Finding

_NO_NOUNS = {"a", "an", "the", "my", "this", "of", "photo", "picture", "sks", "ohwx"}
"""What names of folders share without being of one class: small words, and those that kohya's users teach."""

_FIRST = re.compile(r"([b-df-hj-np-tv-xz]{3,})[\W_]+\w")
"""A word without a vowel, and something behind it."""
_ABBREVIATIONS = {
    *("bmw", "crt", "css", "dslr", "dvd", "hdr", "html", "jpg", "kfc", "lcd", "mrs", "mtb", "nba", "nfl", "nyc"),
    *("png", "pvc", "rgb"),
}
"""Words without a vowel that captions say all the same."""


@dataclass(frozen=True)
class Naming:
    """What a lesson calls a subject, as far as it is known.

    Attributes:
        placeholder: The user's word, such as `<rex>`.
        class_noun: Such as `dog`.
        is_style: The pictures share a style, and may show anything.
        others: Words of other subjects of the same lesson.
    """

    placeholder: str | None = None
    class_noun: str | None = None
    is_style: bool = False
    others: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The words that captions may name; none where the subject's own is not known."""
        return () if self.placeholder is None else (self.placeholder, *self.others)


NOBODY = Naming()
"""Of a folder whose subject is not known."""


def is_their_name(folder_caption: str, naming: Naming) -> bool:
    """Say whether the name of a numbered folder is what kohya's trainer calls the subject, and so no caption."""
    if naming.is_style or naming.class_noun is None:
        return False
    return bool(re.search(rf"{_whole_word(naming.class_noun)}\Z", folder_caption, re.IGNORECASE))


def taught_words(entries: Sequence[Entry]) -> set[str]:
    """Return the words before others in names of numbered folders that are no words: `zkz` of `10_zkz girl`."""
    firsts = (_FIRST.match(entry.folder_caption.casefold()) for entry in entries)
    return {first[1] for first in firsts if first is not None} - _ABBREVIATIONS


def of_one_subject(folder: Path, entries: Sequence[Entry], placeholder: str, class_noun: str) -> list[Entry]:
    """Read the names of numbered folders as those of one subject.

    Where a name ends in the class noun, what stands before is kohya's word for the subject, and the name is no caption.
    Other names stay captions.

    Args:
        folder: The folder.
        entries: Its pictures.
        placeholder: The user's word for the subject, such as `<rex>`.
        class_noun: Such as `dog`.

    Returns:
        The pictures in the same order.

    Raises:
        DataError: One of several numbered folders says neither noun nor word, in its name or in each of its captions; a
            caption cannot be read.
    """
    found = _unnamed(folder, entries, placeholder, class_noun, Entry.caption)
    if found is not None:
        raise refusal(found, field="folder")
    naming = Naming(placeholder, class_noun)
    return [
        replace(entry, folder_caption="") if is_their_name(entry.folder_caption, naming) else entry for entry in entries
    ]


def check_subjects(
    folder: Path, entries: Sequence[Entry], captions: Mapping[Path, str], naming: Naming
) -> list[Finding]:
    """Say that numbered folders cannot be of one subject: by its word and noun, or whatever these are.

    Args:
        folder: The folder.
        entries: Its pictures.
        captions: The captions of those that have one, in a file or by their folder's name.
        naming: What the lesson calls it.
    """
    if naming.is_style:
        return []
    if naming.placeholder is not None and naming.class_noun is not None:
        found = _unnamed(
            folder, entries, naming.placeholder, naming.class_noun, lambda entry: captions.get(entry.path, "")
        )
        return [] if found is None else [found]
    nouns: list[set[str]] = []
    groups = _numbered(entries)
    for group in groups.values():
        said = [_words(captions.get(entry.path, entry.folder_caption)) for entry in group]
        nouns.append((_words(group[0].folder_caption) | set.intersection(*said)) - _NO_NOUNS)
    if len(groups) < 2 or set.intersection(*nouns):
        return []
    more = f" and {len(groups) - 3} more" if len(groups) > 3 else ""
    names = ", ".join(f"'{name}'" for name in list(groups)[:3])
    return [finding("several-subjects", folder, f"no noun stands in each of {names}{more}")]


def _unnamed(
    folder: Path, entries: Sequence[Entry], placeholder: str, class_noun: str, caption: Callable[[Entry], str]
) -> Finding | None:
    """Find one of several numbered folders that does not say what the subject is."""
    said = re.compile(f"{_whole_word(class_noun)}|{_whole_word(placeholder)}", re.IGNORECASE)

    def is_named(group: Sequence[Entry]) -> bool:
        return bool(said.search(group[0].folder_caption)) or all(said.search(caption(entry)) for entry in group)

    named = {name: is_named(group) for name, group in _numbered(entries).items()}
    others = [name for name, is_so in named.items() if not is_so]
    if len(named) < 2 or not others:
        return None
    known = next((name for name, is_so in named.items() if is_so), None)
    what = f"'{others[0]}' does not name the class '{class_noun}', '{known}' does"
    if known is None:
        what = f"neither '{others[0]}' nor '{others[1]}' names the class '{class_noun}'"
    return finding("several-subjects", folder, what)


def _numbered(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the pictures of each numbered folder by its name."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.folder_caption:
            groups.setdefault(entry.name.split("/")[0], []).append(entry)
    return groups


def _whole_word(text: str) -> str:
    """Return the pattern of a word or of several, between which and around which underscores are gaps too."""
    words = r"[\W_]+".join(map(re.escape, text.split()))
    return rf"(?<![^\W_]){words}(?![^\W_])"


def _words(text: str) -> set[str]:
    """Return the words of a text in lower case; underscores are gaps."""
    return set(re.findall(r"[^\W_]+", text.casefold()))
