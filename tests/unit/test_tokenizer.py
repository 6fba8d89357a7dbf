"""The tokenizer: layout, strict length, placeholders, damaged folders."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import CheckpointError, ConfigError, DataError, StorageError, UnknownFormat
from sfumato.formats.atomic import atomic_folder
from sfumato.models.tokenizer import SMALLEST_VOCABULARY, Tokenizer, cut_words
from sfumato.models.tokenizer_files import BOS, EOS

CORPUS = ["a red fox on a blue background", "a blue fox and a red bird in a house"] * 3


def make(context_length: int = 12) -> Tokenizer:
    return Tokenizer.train(CORPUS, 600, context_length)


TOKENIZER = make(40)


def test_training_gives_clips_layout(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(CORPUS, 530, 12)
    tokenizer.save(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert tokenizer.vocab_size == len(vocab) == 530
    assert list(vocab.values()) == list(range(530))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (528, 529, 529)
    assert all(len(piece) == 1 for piece in list(vocab)[:256])
    assert all(piece == letter + "</w>" for letter, piece in zip(vocab, list(vocab)[256:512], strict=False))
    assert len((tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()) >= 1 + 16


def test_training_twice_gives_the_same_and_a_small_corpus_a_small_vocabulary() -> None:
    assert make()._vocab == make()._vocab
    assert 514 < make().vocab_size < 600


def test_rows_are_start_pieces_end_padding() -> None:
    rows = TOKENIZER.encode(["a fox", ""])
    assert rows.shape == (2, 40)
    assert rows[1].tolist() == [TOKENIZER.bos_id, TOKENIZER.eos_id, *[TOKENIZER.pad_id] * 38]
    assert rows[0, 0] == TOKENIZER.bos_id
    assert rows[0, 3] == TOKENIZER.eos_id
    assert TOKENIZER.encode([]).shape == (0, 40)


def test_capitals_and_blanks_do_not_matter() -> None:
    assert TOKENIZER.encode(["A  Red\n\tFOX "]).tolist() == TOKENIZER.encode(["a red fox"]).tolist()


def test_pieces_know_their_places() -> None:
    text = "a  Red fox"
    assert [text[piece.start : piece.end].strip() for piece in TOKENIZER.pieces(text)] == ["a", "Red", "fox"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="<|"), max_size=20))
def test_decoding_gives_back_letters_and_signs(text: str) -> None:
    decoded = TOKENIZER.decode(TOKENIZER.encode([text], truncate=True)[0].tolist())
    limit = TOKENIZER.context_length - 2
    if len(TOKENIZER.pieces(text)) <= limit:
        normal = TOKENIZER._backend.normalizer.normalize_str(text)
        assert re.sub(r"\s", "", decoded) == re.sub(r"\s", "", normal)


def test_over_long_text_is_refused_with_what_would_be_cut() -> None:
    tokenizer = make(5)
    with pytest.raises(DataError) as caught:
        tokenizer.encode(["a fox", "a red fox and a blue bird"])
    assert caught.value.message == (
        "Text 1 has 9 tokens with start and end, the limit is 5; this would be cut: 'and a blue bird'."
    )
    assert caught.value.hint == "Shorten it: no text is cut unasked (Python: Tokenizer.encode with truncate=True cuts)."
    with pytest.raises(DataError, match=r"^The text has 9 tokens with start and end, the limit is 5; this would be"):
        tokenizer.encode(["a red fox and a blue bird"])
    assert tokenizer.excess("a red fox and a blue bird") == caught.value.message.removeprefix("Text 1 has ")[:-1]
    assert tokenizer.excess("a red fox") is None
    cut = tokenizer.encode(["a red fox and a blue bird"], truncate=True)
    assert cut.tolist() == tokenizer.encode(["a red fox"]).tolist()


def test_a_word_that_would_be_cut_inside_is_named_whole() -> None:
    assert cut_words("one twothree four", 7) == "twothree four"
    assert cut_words("onetwo", 3) == "two"


def test_placeholders_stand_for_new_ids() -> None:
    tokenizer = make(14)
    first = tokenizer.vocab_size
    assert tokenizer.add_placeholder("<fox>", 3) == (first, first + 1, first + 2)
    assert tokenizer.add_placeholder("zwx") == (first + 3,)
    assert tokenizer.placeholders == {"<fox>": (first, first + 1, first + 2), "zwx": (first + 3,)}
    a, red = (tokenizer.pieces(word)[0].id for word in ("a", "red"))
    ids = tokenizer.encode(["a <FOX>, red <fox>_2 zwx zwxa"])[0].tolist()
    assert ids[1:5] == [a, first, first + 1, first + 2]
    assert ids[6:9] == [red, first + 2, first + 3]
    assert first + 3 not in ids[9:]
    assert tokenizer.decode([tokenizer.bos_id, a, first, first + 1, first + 3, red, tokenizer.eos_id]) == (
        "a <fox> <fox>_1 zwx red"
    )


def test_letters_that_only_capitals_make_alike_are_found() -> None:
    tokenizer = make()
    ids = tokenizer.add_placeholder("<fix>")
    for text in ("<fıx>", "<FİX>"):
        assert [piece.id for piece in tokenizer.pieces(text)] in (list(ids), [p.id for p in make().pieces(text)])


def test_placeholders_do_not_change_other_texts() -> None:
    tokenizer = make(40)
    before = tokenizer.encode(["a red fox, and <bird>"])
    tokenizer.add_placeholder("<fox>", 2)
    assert tokenizer.encode(["a red fox, and <bird>"]).equal(before)
    tokenizer.remove_placeholder("<fox>")
    assert tokenizer.placeholders == {}
    assert tokenizer.encode(["a <fox>"]).equal(make(40).encode(["a <fox>"]))


def test_placeholders_are_not_saved(tmp_path: Path) -> None:
    tokenizer = make()
    tokenizer.add_placeholder("<fox>")
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).vocab_size == tokenizer.vocab_size


def test_unusable_placeholders_are_refused() -> None:
    tokenizer = make()
    tokenizer.add_placeholder("<fox>", 2)
    with pytest.raises(ConfigError, match="The placeholder '<fox>' exists already"):
        tokenizer.add_placeholder("<Fox>")
    with pytest.raises(ConfigError, match="The placeholder '<fox>_1' exists already"):
        tokenizer.add_placeholder("<fox>_1")
    with pytest.raises(ConfigError, match="The placeholder 'red' is one token that the model knows"):
        tokenizer.add_placeholder("red")
    with pytest.raises(ConfigError, match="The placeholder 'my fox' is not one word"):
        tokenizer.add_placeholder("my fox")
    with pytest.raises(ConfigError, match="The placeholder '' is not one word"):
        tokenizer.add_placeholder("")
    with pytest.raises(ConfigError, match="The placeholder '<cat>' has 0 vectors; at least 1 is needed"):
        tokenizer.add_placeholder("<cat>", 0)
    tokenizer.add_placeholder("<cat>")
    with pytest.raises(ConfigError, match=r"'<fox>' is not .* added last; there are \['<fox>', '<cat>'\]"):
        tokenizer.remove_placeholder("<fox>")
    with pytest.raises(DataError, match="Token id 9999 belongs to no piece and no placeholder"):
        tokenizer.decode([9999])


def test_sizes_that_are_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size is 513; .* need 514"):
        Tokenizer.train(CORPUS, 513)
    with pytest.raises(ConfigError, match="context_length is 2; start, end and a word need 3"):
        Tokenizer.train(CORPUS, 514, 2)


def test_folders_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=f"{re.escape(str(tmp_path))} holds no tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("vocab.json", "{", r"vocab\.json' cannot be read as JSON"),
        ("vocab.json", "[1]", r"vocab\.json' holds a list, a JSON object is needed"),
        (
            "tokenizer_config.json",
            '{"model_max_length": null}',
            r"config\.json' has 'model_max_length' = None; a number",
        ),
        (
            "tokenizer_config.json",
            '{"model_max_length": "77"}',
            "'model_max_length' = '77'; a number of tokens is need",
        ),
        (
            "special_tokens_map.json",
            '{"pad_token": {"text": "!"}}',
            r"holds a value that nothing can .*: KeyError\('cont",
        ),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "holds a value that nothing can .*: AttributeError"),
        ("tokenizer.json", '{"added_tokens": [1]}', "holds a value that nothing can be made of: TypeError"),
        ("merges.txt", "#version: 0.2\na b c\n", r"Merge 0 of .*merges\.txt is \['a', 'b', 'c'\]"),
        ("merges.txt", "#version: 0.2\nq 你\n", r"Merge 0 of .*merges\.txt is \['q', '你'\]"),
        ("vocab.json", json.dumps({BOS: 0, EOS: 5}), r"Merge 0 of"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(tmp_path)


def test_merges_that_are_no_text_are_refused(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\na \xff\n")
    with pytest.raises(
        CheckpointError, match=r"merges\.txt' cannot be read as text: 'utf-8' codec .*Fetch the file aga"
    ):
        Tokenizer.load(tmp_path)


def test_the_whole_file_is_the_one_that_its_library_writes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([*CORPUS, "ein grüner Löwe, 狐狸 🦊"] * 2, 700, 12)
    tokenizer.save(tmp_path)
    tokenizer._backend.save(str(tmp_path / "theirs.json"))
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "theirs.json").read_bytes()


def test_a_disk_that_is_full_at_the_whole_file_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = Path.write_text

    def write(path: Path, *args: Any, **values: Any) -> int:
        if path.name == "tokenizer.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, *args, **values)

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(StorageError, match="the disk is full"), atomic_folder(tmp_path / "tokenizer") as stage:
        TOKENIZER.save(stage)
    assert not list(tmp_path.iterdir())


def test_merges_that_are_cut_at_the_end_of_a_line_are_refused(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    file = tmp_path / "merges.txt"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    needed = TOKENIZER.vocab_size - SMALLEST_VOCABULARY  # no two of these merges make the same piece
    assert len(lines) == 1 + needed
    for kept in (0, needed // 2, needed - 1):
        file.write_text("".join(lines[: 1 + kept]), encoding="utf-8")
        with pytest.raises(CheckpointError) as caught:
            Tokenizer.load(tmp_path)
        assert caught.value.message.startswith(
            f"{file} holds {kept} merges; the {TOKENIZER.vocab_size} pieces of the vocabulary need at least {needed}: "
        )
        last = lines[-1].replace(" ", "").strip()
        assert kept < needed - 1 or caught.value.message.endswith(f"no merge makes {last!r}.")
    file.unlink()
    assert Tokenizer.load(tmp_path).vocab_size == TOKENIZER.vocab_size, "tokenizer.json holds all of them"


def test_pieces_that_no_merge_makes_are_special_or_refused(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    for name in ("<pad>", "<mask>", "<word>"):
        vocab[name] = len(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<word>": vocab["<word>"]}), encoding="utf-8")
    specials = {"pad_token": {"content": "<pad>"}, "additional_special_tokens": ["<mask>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(specials), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.vocab_size, loaded.pad_id) == (len(vocab), vocab["<pad>"])
    (tmp_path / "added_tokens.json").unlink()
    with pytest.raises(CheckpointError, match=r"merges\.txt holds .*: no merge makes '<word>'\. The file is cut short"):
        Tokenizer.load(tmp_path)


def test_a_padding_token_behind_other_added_words_keeps_its_number(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    count = TOKENIZER.vocab_size
    added = {"<cat>": count, "[PAD]": count + 1, "<dog>": count + 2}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.pad_id == count + 1
    assert loaded.encode(["<cat> <dog>"])[0].tolist()[1:5] == [count, count + 2, loaded.eos_id, count + 1]


def test_vocabularies_with_gaps_or_without_ends_are_refused() -> None:
    with pytest.raises(CheckpointError, match="The 3 token ids are not 0 … 2"):
        Tokenizer({"a": 0, BOS: 1, EOS: 3}, [], 8)
    with pytest.raises(CheckpointError, match=re.escape(f"The vocabulary has no {EOS!r}")):
        Tokenizer({"a": 0, BOS: 1}, [], 8)
    with pytest.raises(CheckpointError, match="The vocabulary has no '!'"):
        Tokenizer({"a": 0, BOS: 1, EOS: 2}, [], 8, pad="!")
