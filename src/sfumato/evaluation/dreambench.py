"""The measures of DreamBooth ([ruiz2023] 4.1 and 4.4) over subjects, prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sfumato.data.captions import class_phrase
from sfumato.data.dreambooth_folder import DreamSubject
from sfumato.data.images import load_tensor, to_pixels
from sfumato.data.listing import list_entries
from sfumato.evaluation.encoders import Dual, Seeing
from sfumato.evaluation.likeness import (
    PictureDistance,
    class_before,
    mean_prompt_fidelity,
    mean_subject_fidelity,
    real_fidelity,
    side_effects,
)
from sfumato.evaluation.scoreboard import COST_COLUMNS, Column, Entry
from sfumato.evaluation.trial import Asked, Case, Picture, Trial

REAL = "real pictures"
NOTES = (
    "Subject fidelity: mean pairwise cosine of drawn and real pictures of a subject. For the real pictures: of "
    "different ones among themselves, which is what a perfect method reaches; more than that is copying.",
    "Prompt fidelity: mean cosine of pictures and the text with the class noun, without the identifier.",
    "PRES: the cosine with the real pictures, of pictures of the class drawn after learning. DIV: mean perceptual "
    "distance of pictures of one subject and prompt. Drift: 1 - cosine of pictures of the class before and after, seed "
    "by seed.",
    "Seconds and memory: of a process of its own for each lesson, the base included, what --cache held before not.",
)


def columns_of(encoders: Sequence[str], text: str | None) -> tuple[Column, ...]:
    """Return the columns: subject fidelity once for each encoder, the rest once, by the first encoder.

    Args:
        encoders: Names of the encoders of pictures.
        text: Name of what compares pictures with texts; `None` leaves prompt fidelity out.
    """
    subject = [Column(f"subject_{name}", f"subject fidelity ({name})", "more", of_subject=True) for name in encoders]
    prompts = [Column("text", f"prompt fidelity ({text})", "more")] if text else []
    rest = (Column("pres", "PRES", "less"), Column("drift", "drift of the class", "less"), Column("div", "DIV", "more"))
    return (*subject, *prompts, *rest, *COST_COLUMNS)


def dream_cases(subjects: Sequence[DreamSubject]) -> list[Case]:
    """Turn the subjects of a dataset into cases."""
    return [
        Case(
            subject.name,
            subject.folder,
            subject.class_noun,
            class_phrase(subject.class_noun),
            tuple(
                Asked(f"prompt-{number:02}", f"prompt-{number:02}", text, words)
                for number, (text, words) in enumerate(zip(subject.prompts, subject.words, strict=True))
            ),
            "live subjects" if subject.is_live else "objects",
        )
        for subject in subjects
    ]


def score_dream(
    trials: Sequence[Trial],
    size: int,
    encoders: Mapping[str, Seeing],
    distance: PictureDistance,
    text: Dual | None = None,
) -> list[Entry]:
    """Score all trials of one subject, the real pictures last.

    Args:
        trials: Of one subject; drift needs that of the base.
        size: Side in pixels at which real pictures are looked at, cropped as for learning.
        encoders: Encoders of pictures by name, such as DINO or CLIP; PRES and drift use the first.
        distance: Perceptual distance.
        text: Compares pictures with texts; `None` leaves prompt fidelity out.
    """
    case = trials[0].case
    photos = [to_pixels(load_tensor(entry.path, size)) for entry in list_entries(case.folder)]
    real = {name: encoder.embed_pictures(photos) for name, encoder in encoders.items()}
    main = next(iter(encoders))
    before = class_before(trials, encoders[main])
    words = {asked.name: asked.words for asked in case.asked}
    entries = []
    for trial in trials:
        drawn: list[Picture] = [picture for pictures in trial.drawn.values() for picture in pictures]
        values = {
            f"subject_{name}": mean_subject_fidelity(e.embed_pictures(drawn), real[name])
            for name, e in encoders.items()
        }
        if text is not None:
            said = [words[name] for name, pictures in trial.drawn.items() for _ in pictures]
            values["text"] = mean_prompt_fidelity(text.embed_pictures(drawn), text.embed_texts(said))
        values |= side_effects(trial, encoders[main], real[main], before, distance)
        entries.append(Entry(case.name, case.kind, trial.method, values))
    ceiling = {f"subject_{name}": found for name, rows in real.items() if (found := real_fidelity(rows)) is not None}
    return [*entries, Entry(case.name, case.kind, REAL, ceiling)]
