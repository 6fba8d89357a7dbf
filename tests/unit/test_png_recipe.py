"""Pictures carry their recipe; the same recipe gives the same bytes."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import ConfigError, StorageError, UnreadableImage
from sfumato.formats.png_recipe import encode_png, file_hash, parameters_text, place_picture, read_recipe
from sfumato.operations.replay import replay
from sfumato.requests import ReplayRequest

PICTURE = Image.new("RGB", (8, 8), (200, 30, 60))


def recipe(**changes: Any) -> dict[str, Any]:
    request = {
        "prompt": "a red fox",
        "negative_prompt": "",
        "steps": 20,
        "sampler": "dpm++2m",
        "guidance_scale": 4.0,
        "seed": 7,
        "size": "128x128",
        "strength": 0.75,
    }
    made = {
        "version": 1,
        "sfumato": "0.1.0",
        "base": {"name": "primer", "hash": "0123456789abcdef"},
        "concepts": [],
        "request": request,
    }
    request |= changes.pop("request", {})
    return made | changes


def test_parameters_in_the_form_others_read() -> None:
    assert parameters_text(recipe()) == (
        "a red fox\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 4, Seed: 7, Size: 128x128, Model hash: 0123456789, "
        "Model: primer, RNG: CPU, Version: sfumato 0.1.0"
    )


def test_parameters_with_everything() -> None:
    text = parameters_text(
        recipe(
            request={"negative_prompt": "blue, dark", "strength": 0.5},
            concepts=[{"path": "a/fox.safetensors", "hash": "f" * 64}, {"path": "owl.safetensors", "hash": "a" * 64}],
            init_image={"path": "x.png", "hash": "0"},
        )
    )
    assert "\nNegative prompt: blue, dark\n" in text
    assert "Denoising strength: 0.5" in text
    assert f'Lora hashes: "fox: {"f" * 12}, owl: {"a" * 12}"' in text


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    made = recipe(request={"prompt": "ein Füchslein 狐"})
    data = encode_png(PICTURE, made)
    assert data == encode_png(PICTURE.copy(), made)
    path = place_picture(tmp_path / "new", "fox", data)
    assert read_recipe(path) == made
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.text["parameters"].startswith("ein Füchslein 狐\nSteps: 20")  # type: ignore[attr-defined]


def test_no_picture_is_overwritten(tmp_path: Path) -> None:
    first, second = encode_png(PICTURE, recipe()), encode_png(PICTURE, recipe(request={"seed": 8}))
    assert place_picture(tmp_path, "fox", first).name == "fox.png"
    assert place_picture(tmp_path, "fox", first).name == "fox.png"
    assert place_picture(tmp_path, "fox", second).name == "fox-2.png"
    assert place_picture(tmp_path, "fox", second).name == "fox-2.png"


def has_no_links(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_two_processes_at_the_same_moment_keep_both_pictures(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = encode_png(PICTURE, recipe()), encode_png(PICTURE, recipe(request={"steps": 9}))
    link = os.link if links else has_no_links
    others = [first, None]

    def late(source: Path, target: Path) -> None:
        other = others.pop(0)
        if other is not None:
            target.write_bytes(other)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert place_picture(tmp_path, "fox", second).name == "fox-2.png"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"fox.png": first, "fox-2.png": second}
    others.append(second)
    assert place_picture(tmp_path, "owl", second).name == "owl.png", "the same bytes are one picture"


def test_a_name_is_free_again_when_a_picture_cannot_be_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, "disk failure")

    monkeypatch.setattr(os, "link", has_no_links)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match=r"Could not write '.*fox\.png': disk failure"):
        place_picture(tmp_path, "fox", b"data")
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_read_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    place_picture(tmp_path, "fox", b"data")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert place_picture(tmp_path, "fox", b"data").name == "fox-2.png"


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        place_picture(tmp_path / "file", "fox", b"")


def test_pictures_without_a_sound_recipe(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    with pytest.raises(UnreadableImage, match="plain.png does not exist; a PNG was needed"):
        read_recipe(path)
    PICTURE.save(path)
    with pytest.raises(ConfigError, match="plain.png carries no recipe"):
        read_recipe(path)
    path.write_bytes(encode_png(PICTURE, recipe())[:60])
    with pytest.raises(UnreadableImage, match="plain.png is not a readable picture"):
        read_recipe(path)
    path.write_bytes(b"hello")
    with pytest.raises(UnreadableImage, match="plain.png is not a readable picture"):
        read_recipe(path)
    path.write_bytes(encode_png(PICTURE, recipe(version=99)))
    with pytest.raises(ConfigError, match="has form 99; this sfumato reads form 1"):
        read_recipe(path)


def test_file_hash(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("base", [{"path": "primer"}, {"path": "primer", "hash": 5}, {"hash": "0"}, [], None])
def test_a_recipe_that_does_not_say_its_base_is_damaged(base: Any, tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_text("sfumato", json.dumps(recipe(base=base)))
    PICTURE.save(tmp_path / "fox.png", pnginfo=chunks)
    with pytest.raises(
        ConfigError, match=r"The recipe in .*fox\.png is damaged or of another version: (Key|Type)Error"
    ):
        list(replay(ReplayRequest(picture=tmp_path / "fox.png")))
