"""The experiments of the papers: what is tried, and which ordering the paper reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.data.benchmark.schema import Benchmark
from sfumato.data.listing import Entry, list_entries
from sfumato.errors import ConfigError
from sfumato.evaluation.trial import Case
from sfumato.formats.atomic import atomic_write_bytes, remove_folder
from sfumato.operations.trials import PLACEHOLDER, Arm
from sfumato.runtime.suggestions import did_you_mean
from sfumato.training.methods import METHODS
from sfumato.training.subject import subject_caption

SUBJECT, TEXT, PRES, DIV = "subject", "text", "pres", "div"
_LORA = Arm("lora", {"method": "lora"})
_DREAMBOOTH = Arm("dreambooth", {"method": "dreambooth"})
_WORD = Arm("textual-inversion", {"method": "textual-inversion"})
_RANKS, _RATES = (1, 4, 8, 64), (1e-4, 1e-3, 5e-3, 2e-2)
_BEST, _MOST = 4, 5
"""Pictures from which the paper gains no more, and the most that it tries."""


@dataclass(frozen=True)
class Link:
    """One row lies above another in a column; with `is_close` it may also lie a little below.

    Attributes:
        upper: Title of the row that lies higher.
        lower: Title of the other.
        column: Where.
        is_close: Whether a small loss is part of what the paper reports.
    """

    upper: str
    lower: str
    column: str
    is_close: bool = False


@dataclass(frozen=True)
class Claim:
    """An ordering that a paper reports, in words and as what must hold, all of it."""

    text: str
    links: tuple[Link, ...]


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: Its name for `--only`.
        title: What it varies, and where the paper has it.
        arms: Its rows by title; experiments may share arms.
        claims: What the paper reports.
    """

    name: str
    title: str
    arms: Mapping[str, Arm]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Setup:
    """What the experiments are made for: budget, benchmark, its chosen subjects, and the width of the base's U-Net."""

    request: BenchmarkRequest
    benchmark: Benchmark
    cases: Sequence[Case]
    width: int


def prior(setup: Setup) -> Experiment:
    """Class pictures beside the subject's: the class stays, pictures stay varied, little fidelity is lost."""
    weight = {"prior_weight": setup.request.prior_weight}
    arms: dict[str, Arm] = {}
    claims: list[Claim] = []
    for arm in (_DREAMBOOTH, _LORA):
        plain, kept = arm.label, f"{arm.label}+prior"
        arms |= {plain: arm, kept: Arm(kept, {**arm.settings, **weight})}
        claims += [
            Claim(f"{plain}: DIV rises", (Link(kept, plain, DIV),)),
            Claim(f"{plain}: PRES falls", (Link(plain, kept, PRES),)),
            Claim(f"{plain}: subject fidelity falls little", (Link(kept, plain, SUBJECT, is_close=True),)),
        ]
    return Experiment("prior", "prior preservation (DreamBooth 4.4, table 3)", arms, tuple(claims))


def noun(setup: Setup) -> Experiment:
    """The class noun after a rare word: the right one, none, and that of another subject."""
    wrong = {
        case.name: {"class_noun": _other_noun(case, setup), "folder": _with_word(case, setup.request.output)}
        for case in setup.cases
    }
    arms = {
        "right noun": _DREAMBOOTH,
        "wrong noun": Arm("wrong class noun", _DREAMBOOTH.settings, wrong),
        "no noun": Arm("no class noun", {**_DREAMBOOTH.settings, "say_class": False}),
    }
    claims = (
        Claim(
            "subject fidelity: right > wrong > none",
            (Link("right noun", "wrong noun", SUBJECT), Link("wrong noun", "no noun", SUBJECT)),
        ),
        Claim(
            "prompt fidelity: right above both (no figures in the paper)",
            (Link("right noun", "wrong noun", TEXT), Link("right noun", "no noun", TEXT)),
        ),
    )
    return Experiment("noun", "class noun (DreamBooth 4.4, table 4)", arms, claims)


def _usual_rank(setup: Setup) -> int:
    """Return the rank of the plain lora."""
    return setup.request.rank or METHODS["lora"].rank


def rank(setup: Setup) -> Experiment:
    """The rank of the factors at one alpha, as in the paper."""
    usual = _usual_rank(setup)
    arms = {
        f"rank {r}": _LORA if r == usual else Arm(f"rank {r}", {**_LORA.settings, "rank": r, "alpha": usual})
        for r in _RANKS
    }
    most = f"rank {_RANKS[-1]}"
    claims = tuple(Claim(f"rank {r} is enough", (Link(f"rank {r}", most, SUBJECT, is_close=True),)) for r in _RANKS[:2])
    return Experiment("rank", "rank (LoRA 7.2)", arms, claims)


def layers(setup: Setup) -> Experiment:
    """Factors in the attention alone, and in all layers of the blocks: with about as many weights, and with more."""
    usual = _usual_rank(setup)
    thin = max(1, usual // 4)
    tried = {
        f"attention, rank {usual}": {"targets": ("attention",)},
        f"blocks, rank {thin}": {"targets": ("blocks",), "rank": thin},
        f"blocks, rank {usual}": {"targets": ("blocks",)},
    }
    arms = {title: Arm(f"lora, {title}", {**_LORA.settings, **values}) for title, values in tried.items()}
    narrow, spread_out, most = arms
    claims = (
        Claim(
            "more kinds of layers with about as many weights: nearer to the subject",
            (Link(spread_out, narrow, SUBJECT),),
        ),
        Claim("a quarter of the rank is enough there", (Link(spread_out, most, SUBJECT, is_close=True),)),
    )
    return Experiment("layers", "layers with factors (LoRA 7.1)", arms, claims)


def rate(setup: Setup) -> Experiment:
    """The learning rate of a word moves it along a curve, from what can be edited to what looks like the subject."""
    arms = {
        f"lr {lr:g}": _WORD if lr == 5e-3 else Arm(f"textual-inversion, lr {lr:g}", {**_WORD.settings, "lr": lr})
        for lr in _RATES
    }
    slow, fast = f"lr {_RATES[0]:g}", f"lr {_RATES[-1]:g}"
    claims = (
        Claim("a high rate is nearer to the subject", (Link(fast, slow, SUBJECT),)),
        Claim("a low rate is nearer to the prompt", (Link(slow, fast, TEXT),)),
    )
    return Experiment("rate", "learning rate (Textual Inversion 5.2, figure 10)", arms, claims)


def vectors(setup: Setup) -> Experiment:
    """Vectors of a word, all at once or joining one after another."""
    more = {f"{count} vectors": {"num_vectors": count} for count in (2, 4)}
    steps = setup.request.steps or METHODS["textual-inversion"].usual(setup.width).steps
    more["4 vectors, one by one"] = {"num_vectors": 4, "progressive_steps": steps // 4}
    arms = {"1 vector": _WORD, **{title: Arm(title, {**_WORD.settings, **values}) for title, values in more.items()}}
    several = ("2 vectors", "4 vectors")
    claims = (
        Claim(
            "more vectors are as near to the subject, or nearer",
            tuple(Link(title, "1 vector", SUBJECT, is_close=True) for title in several),
        ),
        Claim("one vector is nearer to the prompt", tuple(Link("1 vector", title, TEXT) for title in several)),
    )
    return Experiment("vectors", "vectors of a word (Textual Inversion 5.2)", arms, claims)


def pictures(setup: Setup) -> Experiment:
    """How many pictures of a subject there are to learn from: one to five, or as many as the subjects have.

    A subject that has fewer than another is learned from all of them.
    """
    most = min(_MOST, max(len(list_entries(case.folder)) for case in setup.cases))
    counts, arms = range(1, most + 1), {}
    for count in counts:
        title = f"{count} picture{'s' if count > 1 else ''}"
        folders = {case.name: {"folder": _fewer(case, count, setup.request.output)} for case in setup.cases}
        arms[title] = Arm(title, _LORA.settings, folders)
    titles = list(arms)
    rising = titles[:_BEST]
    links = [Link(rising[place + 1], rising[place], SUBJECT) for place in range(len(rising) - 1)]
    text = f"subject fidelity: {' > '.join(map(str, reversed(counts[:_BEST])))}"
    if most > _BEST:
        links.append(Link(titles[_BEST], titles[_BEST - 1], SUBJECT, is_close=True))
        text += f", and {most} as near as {_BEST}"
    claims = (Claim(text, tuple(links)),)
    return Experiment("pictures", "number of pictures (DreamBooth supplement, table 5)", arms, claims)


EXPERIMENTS: Mapping[str, Callable[[Setup], Experiment]] = {
    "prior": prior,
    "noun": noun,
    "rank": rank,
    "layers": layers,
    "rate": rate,
    "vectors": vectors,
    "pictures": pictures,
}


def choose(only: str | None) -> tuple[str, ...]:
    """Read the names after `--only`; all of them if nothing is given.

    Raises:
        ConfigError: A name is unknown, or there is none.
    """
    if only is None:
        return tuple(EXPERIMENTS)
    names = tuple(dict.fromkeys(part.strip() for part in only.split(",") if part.strip()))
    for name in names or ("",):
        if name not in EXPERIMENTS:
            raise ConfigError(
                f"--only: given {name!r}; needed names out of {', '.join(EXPERIMENTS)}.",
                field="only",
                hint=did_you_mean(name, EXPERIMENTS),
            )
    return names


def arms_of(experiments: Sequence[Experiment]) -> list[Arm]:
    """Return every arm once."""
    return list({arm.label: arm for experiment in experiments for arm in experiment.arms.values()}.values())


def _other_noun(case: Case, setup: Setup) -> str:
    """Return the class noun of another subject, of the other kind if there is one (people and icons share nothing)."""
    own = next(subject for subject in setup.benchmark.subjects if subject.name == case.name)
    others = [subject for subject in setup.benchmark.subjects if subject.class_noun != own.class_noun]
    if not others:
        raise ConfigError(
            f"All subjects of the benchmark are called '{own.class_noun}'; a wrong class noun is that of another one.",
            field="only",
            hint="Build the benchmark with icons, or leave 'noun' out of --only.",
        )
    apart = [subject for subject in others if subject.kind != own.kind] or others
    return apart[list(setup.benchmark.subjects).index(own) % len(apart)].class_noun


def _with_word(case: Case, output: Path) -> Path:
    """Write the pictures of a subject with captions that name the word, whatever noun is learned with it."""
    entries = list_entries(case.folder)
    captions = [subject_caption(e.caption(f"a {PLACEHOLDER}"), PLACEHOLDER, case.class_noun) for e in entries]
    return _write(entries, captions, output / "subjects" / f"{case.name}-with-word")


def _fewer(case: Case, count: int, output: Path) -> Path:
    """Write some pictures of a subject with their captions; where there are no more, its own folder is taken."""
    entries = list_entries(case.folder)
    if count >= len(entries):
        return case.folder
    chosen = [entries[place * len(entries) // count] for place in range(count)]
    return _write(chosen, [entry.caption("") for entry in chosen], output / "subjects" / f"{case.name}-{count}")


def _write(entries: Sequence[Entry], captions: Sequence[str], folder: Path) -> Path:
    """Copy pictures into a folder that holds nothing else."""
    remove_folder(folder)
    for entry, caption in zip(entries, captions, strict=True):
        path = folder / entry.path.name
        atomic_write_bytes(path, entry.path.read_bytes())
        if caption:
            atomic_write_bytes(path.with_suffix(".txt"), f"{caption}\n".encode())
    return folder
