"""Every kind of thing that can be found in a folder of pictures: how grave it is, what follows from it, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import DataError
from sfumato.events import Finding, Severity


@dataclass(frozen=True)
class Kind:
    """A kind of finding; `meaning` and `advice` are sentences."""

    severity: Severity
    title: str
    meaning: str
    advice: str


_STOPS = "Learning would stop at this file."
_UNUSED = "It would not be learned from."

KINDS: dict[str, Kind] = {
    # ── the folder
    "empty-folder": Kind("error", "empty folder", "There is nothing to learn from.", "Put 3 to 5 pictures there."),
    "no-pictures": Kind(
        "error",
        "no pictures",
        "There is nothing to learn from.",
        "Put pictures there that end in .png, .jpg, .jpeg, .jfif, .webp or .bmp, or name the folder that holds them.",
    ),
    "bad-repeats": Kind(
        "error",
        "folder name without a usable number of repeats",
        "The number says how often the pictures of a folder are shown in a round.",
        "Rename it '<repeats>_<caption>', for example '10_sks dog', or move it elsewhere.",
    ),
    "unread-folder": Kind(
        "warning",
        "pictures in a folder that is not read",
        "They would not be learned from.",
        "Move them up, or name their folder '<repeats>_<caption>', for example '10_sks dog'.",
    ),
    "unopened-folder": Kind(
        "warning",
        "folder that cannot be opened",
        "Pictures in it would not be learned from.",
        "Check its permissions if there are any.",
    ),
    "mixed-folders": Kind(
        "warning",
        "pictures beside numbered folders",
        "Each counts once, next to those in the numbered folders.",
        "Move them into a numbered folder if other trainers are to see them too.",
    ),
    "several-subjects": Kind(
        "error",
        "numbered folders of more than one subject, it seems",
        "Learning would take them for one subject and stops, unless they share a --style.",
        "Give each subject its own folder: learn from one of these and name the others with --also FOLDER:WORD:NOUN. "
        "If all show one subject, write its class into each of the names, for example '10_sks dog'.",
    ),
    # ── files
    "unopened": Kind("error", "cannot be opened", "Learning would stop at it.", "Check its permissions and the disk."),
    "link-to-nothing": Kind("error", "link that leads nowhere", _STOPS, "Mend the link, or take it out."),
    "undecodable": Kind("error", "cannot be decoded", _STOPS, "Save it again as PNG, or take it out."),
    "truncated": Kind("error", "cut short", _STOPS, "Copy it again from where it came from, or take it out."),
    "not-a-picture": Kind("error", "not a picture of its kind", _STOPS, "Save it as PNG, or take it out."),
    "too-many-pixels": Kind("error", "too many pixels", _STOPS, "Scale it down."),
    "wrong-extension": Kind(
        "warning",
        "name and content differ",
        "sfumato goes by the content; other programs may refuse the file.",
        "Rename it, or use --fix.",
    ),
    "unread-format": Kind("warning", "format that is not read", _UNUSED, "Save it as PNG."),
    "animated": Kind("warning", "animated", "Only its first frame is used.", "Save the frame you mean as PNG."),
    # ── pictures
    "orientation": Kind(
        "note",
        "turned by its EXIF data",
        "sfumato turns it upright; programs that ignore the entry see it lying.",
        "Nothing need be done; --fix writes it upright.",
    ),
    "transparent": Kind(
        "warning",
        "see-through parts",
        "They are put on white, which is then learned as the background; with --masks alpha they are left out of the "
        "lesson, or count as little as --unmasked-weight says.",
        "Use --masks alpha if only the rest is meant, or give it a background of your own if white is not.",
    ),
    "colour-mode": Kind(
        "note",
        "colours other than 8-bit RGB",
        "They are converted; shades may shift or be rounded.",
        "Compare the copy of --fix with the original.",
    ),
    "small": Kind(
        "warning",
        "smaller than it will be learned",
        "It is enlarged, and the softness is learned.",
        "Use a larger original.",
    ),
    "aspect": Kind(
        "warning",
        "far from square",
        "The middle square is learned, the rest is lost.",
        "Crop it yourself so that the subject stays in.",
    ),
    "blurred": Kind(
        "warning",
        "blurred or nearly empty",
        "The blur is learned as part of the subject.",
        "Use a sharper picture, or keep it if it is meant so.",
    ),
    "duplicate": Kind(
        "warning", "same picture twice", "It counts twice as much as the others.", "Take one out, or use --fix."
    ),
    "near-duplicate": Kind(
        "warning",
        "nearly the same picture",
        "What the two share, background included, is learned more strongly.",
        "Keep the better one.",
    ),
    "bucket-small": Kind(
        "warning",
        "bucket with fewer pictures than a batch",
        "With --buckets the same picture stands several times in each of its batches.",
        "Cut the pictures to fewer shapes, use a smaller --batch-size, or add pictures of that shape.",
    ),
    # ── captions
    "caption-encoding": Kind(
        "error", "caption that is not UTF-8", "Learning would stop at it, or read wrong letters.", "Use --fix."
    ),
    "caption-empty": Kind(
        "warning",
        "empty caption",
        "It is treated as if it was not there.",
        "Write one, or delete the file.",
    ),
    "caption-missing": Kind(
        "warning",
        "no caption although others have one",
        "'a <word>' is used for it, with the word of --as.",
        "Write one into a text file of the same name.",
    ),
    "caption-orphan": Kind(
        "warning",
        "caption without a picture",
        "It is not used.",
        "Name it like its picture, with .txt at the end.",
    ),
    "caption-differs": Kind(
        "error",
        "two captions that differ",
        "Learning would stop at them.",
        "Delete the one that is not meant.",
    ),
    "caption-placeholder": Kind(
        "warning",
        "caption without the word that most have",
        "sfumato puts the word of --as in; other programs leave the subject unnamed.",
        "Put it in where the subject is in the picture.",
    ),
    "caption-other-word": Kind(
        "warning",
        "word of another trainer in captions",
        "It would be learned beside the word of --as, and be needed in every prompt.",
        "Put the word of --as in its place.",
    ),
    "caption-repeated": Kind(
        "note",
        "same caption for several pictures",
        "What differs between them has no words, so it is learned as part of the subject.",
        "Describe what differs: place, pose, light.",
    ),
    "caption-long": Kind(
        "error",
        "caption longer than the base reads",
        "Learning would stop at it, unless --templates say other sentences.",
        "Shorten it.",
    ),
    "caption-room": Kind(
        "warning",
        "caption with little room for the word",
        "Learning says the word in it, mostly with the class noun behind, and would stop where they do not fit.",
        "Shorten it, or give --as, --class and --num-vectors as for the lesson: then it is measured as that says it.",
    ),
    "caption-lines": Kind(
        "warning",
        "caption of several lines",
        "They are read as one caption: sfumato learn takes one line a file, where other trainers pick one of several.",
        "Keep the line that says most of this picture.",
    ),
    # ── masks
    "mask-orphan": Kind(
        "warning",
        "mask without a picture",
        "It is not used; learning with --masks file would stop at it.",
        "Name it like its picture (beside it with .mask.png at the end), or take it out.",
    ),
    "mask-unusable": Kind(
        "warning",
        "mask that cannot be used",
        "Learning with --masks file would stop at it.",
        "Save it in the size of its picture, white where the subject is.",
    ),
    "mask-outside": Kind(
        "warning",
        "mask without white in the middle square",
        "With --masks file only the ground would count, and with --unmasked-weight 0 learning would stop at it.",
        "Cut picture and mask so that the subject stays in, or use --buckets, which cuts another part.",
    ),
    "mask-missing": Kind(
        "warning",
        "picture without a mask",
        "Learning with --masks file would stop at it.",
        "Paint one, named like the picture (beside it with .mask.png at the end).",
    ),
    "mask-named": Kind(
        "warning",
        "picture named like the mask of another",
        "It would be learned as a picture of the subject.",
        "Save a mask as NAME.mask.png, and give a picture another name.",
    ),
    "alpha-missing": Kind(
        "warning",
        "picture without transparency beside others that have it",
        "Learning with --masks alpha would stop at it.",
        "Save it as PNG without its ground, or do not use --masks alpha.",
    ),
    "alpha-outside": Kind(
        "warning",
        "picture with nothing solid in its middle square",
        "With --masks alpha only the ground would count, and with --unmasked-weight 0 learning would stop at it.",
        "Cut it so that the subject stays in, or use --buckets, which cuts another part.",
    ),
    # ── metadata.jsonl and metadata.csv
    "metadata-encoding": Kind(
        "error", "metadata that is not UTF-8", "Learning would stop at it.", "Save it again as UTF-8."
    ),
    "metadata-unread": Kind(
        "warning",
        "captions in a file that is not read",
        "They would not be learned.",
        "Put them into metadata.jsonl, metadata.csv or a text file beside each picture.",
    ),
    "metadata-json": Kind(
        "error",
        "line that is not JSON",
        "Learning would stop at it.",
        'Write one object a line: {"file_name": "a.png", "text": "a caption"}.',
    ),
    "metadata-table": Kind(
        "error",
        "table that cannot be read",
        "Learning would stop at it.",
        "Write one picture a line; a text with commas, quotes or line ends stands in quotes.",
    ),
    "metadata-entry": Kind(
        "error",
        "entry that cannot be used",
        "Learning would stop at it.",
        "Give each picture one entry with file_name and text, both texts.",
    ),
    "metadata-missing-file": Kind(
        "error", "entry for a picture that is not there", "Learning would stop at it.", "Correct or delete the line."
    ),
    "metadata-unknown-key": Kind(
        "warning", "entry with unknown keys", "Only file_name and text are read.", "Check the spelling."
    ),
}


def finding(kind: str, path: Path, found: str) -> Finding:
    """Make a finding of a kind.

    Args:
        kind: A key of `KINDS`.
        path: The file or folder.
        found: What is there, with the values, without a full stop.
    """
    known = KINDS[kind]
    return Finding(known.severity, kind, known.title, path, found, known.meaning, known.advice)


def unopened(path: Path, error: OSError, kind: str = "unopened") -> Finding:
    """Make the finding for a file or folder that the system does not open.

    Args:
        path: The file or folder.
        error: What the system says; it may name something within the folder.
        kind: A key of `KINDS`.
    """
    within = "" if error.filename in (None, str(path), path) else f" ('{error.filename}')"
    return finding(kind, path, f"{error.strerror or error}{within}")


def refusal(problem: Finding, field: str | None = None) -> DataError:
    """Build the error for a finding that nobody may pass over.

    Args:
        problem: The finding.
        field: Name of the option at fault, if there is one.
    """
    return DataError(f"{problem.path}: {problem.title}: {problem.found}.", field=field, hint=problem.advice)
