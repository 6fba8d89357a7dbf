"""Pictures by index, batches made ahead, the rotating pool of latents."""

from __future__ import annotations

import errno
import os
import pickle
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.data.folder import FolderSampler
from sfumato.data.shapes import ShapeSampler
from sfumato.errors import CaptionMissing, ConfigError, DataError
from sfumato.events import Notice
from sfumato.training.latents import LatentPool, LatentPoolConfig, check_pool, fitted
from sfumato.training.pictures import (
    DataConfig,
    PictureBatch,
    PictureBatches,
    check_pictures,
    fingerprint,
    open_source,
)
from sfumato.training.sheets import psnr, save_sheet
from sfumato.training.stream import Prefetched

SHAPES = DataConfig(kind="shapes", size=16, workers=0)


def test_shapes_are_a_function_of_seed_and_index() -> None:
    one, same, other = ShapeSampler(1, 16).scene(5), ShapeSampler(1, 16).scene(5), ShapeSampler(2, 16).scene(5)
    assert np.array_equal(one.image, same.image) and one.caption == same.caption
    assert not np.array_equal(one.image, other.image)
    assert one.image.shape == (16, 16, 3) and " on a " in one.caption


def test_shapes_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"size is 7; needed: at least 8 pixels"):
        ShapeSampler(size=7)


def test_a_batch_holds_consecutive_pictures_with_names() -> None:
    batches = PictureBatches(SHAPES, 3)
    batch = batches(2)
    assert batch.pixels.shape == (3, 16, 16, 3)
    assert np.array_equal(batch.pixels[1], ShapeSampler(0, 16).scene(7).image)
    assert batch.ids[0].startswith("picture 6 (a ")
    images = batch.images()
    assert images.shape == (3, 3, 16, 16) and images.min() >= -1 and images.max() <= 1
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_validation_pictures_are_others() -> None:
    assert not np.array_equal(PictureBatches(SHAPES, 3)(0).pixels, PictureBatches(SHAPES, 3, "validation")(0).pixels)


def test_batches_travel_without_their_source() -> None:
    batches = PictureBatches(SHAPES, 2)
    expected = batches(1).pixels
    assert "_source" in batches.__dict__
    copy = pickle.loads(pickle.dumps(batches))
    assert "_source" not in copy.__dict__ and np.array_equal(copy(1).pixels, expected)


def test_primer_without_a_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.folder is missing; data of kind 'primer' needs the folder"):
        open_source(DataConfig(kind="primer"))


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("1" if name != "c" else "2")
    a, b, c = (fingerprint(DataConfig(folder=tmp_path / name)) for name in "abc")
    assert a == b != c


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixty pictures of different grey; the first has a caption."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(60):
        left = np.full((8, 4, 3), 4 * n, np.uint8)
        Image.fromarray(np.concatenate([left, np.zeros_like(left)], axis=1)).save(folder / f"{n:02d}.png")
    (folder / "00.txt").write_text("black")
    return folder


def greys(sampler: FolderSampler, count: int) -> list[int]:
    """Return the shade of the first pictures."""
    return [int(sampler.scene(index).image.max()) for index in range(count)]


def test_a_folder_is_shown_round_by_round_in_new_orders(photos: Path) -> None:
    sampler = FolderSampler(photos, 0, 8, split="all")
    first, second = greys(sampler, 120)[:60], greys(sampler, 120)[60:]
    assert sorted(first) == sorted(second) == list(range(0, 240, 4)) and first != second
    assert first == greys(FolderSampler(photos, 0, 8, split="all"), 60)
    assert first != greys(FolderSampler(photos, 1, 8, split="all"), 60)


def test_held_out_pictures_are_never_learned_and_stay_held_out(photos: Path) -> None:
    train, held_out = FolderSampler(photos, 0, 8), FolderSampler(photos, 0, 8, split="held_out")
    assert not set(train.files) & set(held_out.files)
    assert len(train.files) + len(held_out.files) == 60 and held_out.files
    (photos / "99.png").write_bytes((photos / "03.png").read_bytes())
    assert set(held_out.files) <= set(FolderSampler(photos, 0, 8, split="held_out").files)
    validation = open_source(DataConfig(kind="folder", folder=photos, size=8), "validation")
    assert isinstance(validation, FolderSampler) and set(held_out.files) <= set(validation.files)


def test_half_of_the_pictures_are_mirrored_if_asked(photos: Path) -> None:
    sampler = FolderSampler(photos, 0, 8, flip=True, split="all")
    mirrored = [bool(sampler.scene(index).image[0, 0, 0] < sampler.scene(index).image[0, -1, 0]) for index in range(60)]
    assert 15 < sum(mirrored) < 45


def test_captions_come_from_text_files_or_the_recipe(photos: Path) -> None:
    shown = {FolderSampler(photos, 0, 8, caption="grey", split="all").scene(index).caption for index in range(60)}
    assert shown == {"grey", "black"}
    (photos / "01.CAPTION").write_text("dark")
    shown = {FolderSampler(photos, 0, 8, caption="grey", split="all").scene(index).caption for index in range(60)}
    assert shown == {"grey", "black", "dark"}
    with pytest.raises(CaptionMissing, match=r"has no caption: there is no"):
        [FolderSampler(photos, 0, 8, caption=None, split="all").scene(index) for index in range(60)]


def test_an_unknown_split_of_a_folder_is_refused(photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"split is 'test'; needed: one of train, held_out, all\."):
        FolderSampler(photos, 0, 8, split="test")


def test_the_fingerprint_of_a_folder_follows_its_files(photos: Path) -> None:
    config = DataConfig(kind="folder", folder=photos, size=8)
    before = fingerprint(config)
    assert before == fingerprint(config)
    (photos / "61.png").write_bytes(b"x")
    more = fingerprint(config)
    (photos / "61.png").write_bytes(b"y")
    other = fingerprint(config)
    (photos / "61.txt").write_text("a cat")
    captioned = fingerprint(config)
    (photos / "61.txt").write_text("a dog")
    changed = fingerprint(config)
    (photos / "60.png").write_bytes(b"x")
    (photos / "60.CAPTION").write_text("a dog")
    kohyas = fingerprint(config)
    (photos / "60.CAPTION").write_text("a cat")
    found = [one["files"] for one in (before, more, other, captioned, changed, kohyas, fingerprint(config))]
    assert len(set(found)) == 7


def test_a_bitmap_is_told_apart_by_any_of_its_pixels(photos: Path) -> None:
    config = DataConfig(kind="folder", folder=photos, size=8)
    pixels = np.zeros((256, 256, 3), np.uint8)  # 196,662 bytes: its middle is neither at the beginning nor at the end
    found = []
    for name in ("61.bmp", "61.png"):  # what counts is what the file holds
        for shade in (0, 1):
            pixels[128, 128] = shade
            Image.fromarray(pixels).save(photos / name, "BMP")
            found.append(fingerprint(config)["files"])
    assert len(set(found)) == 4


@pytest.mark.parametrize(("name", "method"), [("05.png", "open"), ("00.txt", "read_bytes")])
def test_a_file_that_the_system_does_not_open_is_refused_by_name(
    photos: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    original = getattr(Path, method)

    def refuse(self: Path, *options: Any, **named: Any) -> Any:
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return original(self, *options, **named)

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(DataError) as refused:
        fingerprint(DataConfig(kind="folder", folder=photos, size=8))
    assert refused.value.message == f"{photos / name}: cannot be opened: Permission denied."
    assert refused.value.field == "data.folder" and refused.value.hint == "Check its permissions and the disk."


def test_every_picture_of_a_folder_is_read_in_whatever_split(photos: Path) -> None:
    held_out = FolderSampler(photos, 0, 8, split="held_out").files[0]
    held_out.write_bytes(b"no picture")
    (photos / "00.caption").write_text("white")
    for split in ("train", "held_out", "all"):
        sampler = FolderSampler(photos, 0, 8, split=split)
        faults = dict(zip(sampler.listed, sampler.faults(), strict=True))
        assert len(faults) == 60 and {path for path, fault in faults.items() if fault} == {held_out, photos / "00.png"}
        assert f"{held_out} is not a readable picture" in str(faults[held_out])
        assert "two captions that differ" in str(faults[photos / "00.png"])


class Slow:
    """Makes a number, with the process that made it."""

    def __call__(self, index: int) -> tuple[int, int]:
        time.sleep(0.001)
        return index * index, os.getpid()


def test_a_worker_makes_the_same_batches_in_any_order() -> None:
    with Prefetched(Slow(), workers=1, ahead=2) as stream:
        made = [stream.get(index) for index in (0, 1, 2, 7, 7, 3)]
    assert [value for value, _ in made] == [0, 1, 4, 49, 49, 9]
    assert os.getpid() not in {process for _, process in made}
    inline = Prefetched(Slow(), workers=0)
    assert inline.get(3) == (9, os.getpid())


class Fails:
    """Cannot make anything."""

    def __call__(self, index: int) -> int:
        raise ConfigError(f"batch {index} is bad", field="x", hint="Change it.")


def test_an_error_of_the_worker_reaches_the_caller() -> None:
    with Prefetched(Fails(), workers=1) as stream, pytest.raises(ConfigError, match=r"batch 4 is bad"):
        stream.get(4)


def encode(batch: PictureBatch) -> dict[str, Tensor]:
    """Encode a picture as one number with a small spread; its feature is the number doubled."""
    mean = torch.from_numpy(batch.pixels.astype(np.float32)).mean((1, 2, 3), keepdim=True) / 255
    return {"mean": mean, "std": torch.full_like(mean, 0.01), "features": 2 * mean}


def pool(folder: Path, calls: list[int] | None = None, **config: Any) -> LatentPool:
    """Make a pool of four pictures in two shards."""
    made = PictureBatches(SHAPES, 2)

    def make(index: int) -> PictureBatch:
        if calls is not None:
            calls.append(index)
        return made(index)

    values = {"shard_size": 4, "window": 2, "encode_batch": 2, **config}
    return LatentPool(LatentPoolConfig(**values), folder, {"data": 1}, Prefetched(make, workers=0), encode, seed=0)


def test_a_pool_holds_every_picture_of_a_folder_and_few_not_hundreds_of_times() -> None:
    config = LatentPoolConfig(shard_size=64, window=4, encode_batch=16)
    for pictures, size, window in ((5, 64, 2), (1, 16, 1), (3, 48, 1), (200, 64, 4), (None, 64, 4)):
        check_pool(config, pictures)
        found = fitted(config, pictures)
        assert (found.shard_size, found.window) == (size, window), pictures
        assert found.shard_size % found.encode_batch == 0
    with pytest.raises(ConfigError, match=r"holds 256 pictures .* but there are 257 to learn from") as refused:
        check_pool(config, 257)
    assert "latents.window=5" in str(refused.value.hint)
    check_pool(config.model_copy(update={"window": 5}), 257)
    check_pool(config.model_copy(update={"rotate_every": 1}), 257)


def test_each_round_shows_every_picture_once_in_a_new_order(tmp_path: Path) -> None:
    p = pool(tmp_path)
    events = list(p.move_to(0))
    assert [(event.done, event.total) for event in events] == [(1, 2), (2, 2)]  # type: ignore[attr-defined]
    rounds = [[name for draw in range(r * 4, r * 4 + 4) for name in p.batch(draw, 2).ids] for r in range(2)]
    assert all(len(set(names)) == 8 for names in rounds)
    assert set(rounds[0]) == set(rounds[1]) and rounds[0] != rounds[1]


def test_a_batch_is_drawn_from_the_distribution_of_its_pictures(tmp_path: Path) -> None:
    p = pool(tmp_path)
    list(p.move_to(0))
    draws = torch.stack([p.batch(draw, 8).x_0.flatten().sort().values for draw in range(300)])
    expected = torch.stack([encode(PictureBatches(SHAPES, 8)(0))["mean"].flatten()]).sort().values
    assert (draws.mean(0) - expected).abs().max() < 0.01
    assert not torch.equal(p.batch(0, 8).x_0, p.batch(8, 8).x_0)
    assert torch.equal(p.batch(5, 3).x_0, p.batch(5, 3).x_0)


def test_a_caption_belongs_to_its_latent(tmp_path: Path) -> None:
    p = pool(tmp_path)
    list(p.move_to(0))
    batch = p.batch(1, 4)
    for x_0, caption, name in zip(batch.x_0, batch.captions, batch.ids, strict=True):
        picture = ShapeSampler(0, 16).scene(int(name.split()[1]))
        assert picture.caption == caption and f"({caption})" in name
        assert abs(float(x_0) - picture.image.mean() / 255) < 0.05
    assert batch.features is not None
    assert (batch.features - 2 * batch.x_0).abs().max() < 0.1


def test_the_window_moves_and_forgets(tmp_path: Path) -> None:
    calls: list[int] = []
    p = pool(tmp_path, calls, rotate_every=3)
    shown: Counter[int] = Counter()
    for step in range(9):
        list(p.move_to(step))
        shown.update(int(name.split()[1]) // 4 for name in p.batch(step, 2).ids)
        assert set(shown) <= set(range(step // 3 + 2))
    assert set(shown) == {0, 1, 2, 3}
    assert calls == [0, 1, 2, 3, 4, 5, 6, 7]
    kept = sorted(file.name for file in tmp_path.rglob("*.safetensors"))
    assert kept == ["shard-000002.safetensors", "shard-000003.safetensors"]


def test_a_resumed_run_sees_the_same_batches(tmp_path: Path) -> None:
    whole, late = pool(tmp_path / "a", rotate_every=3), pool(tmp_path / "b", rotate_every=3)
    for step in range(8):
        list(whole.move_to(step))
    list(late.move_to(7))
    assert torch.equal(whole.batch(7, 4).x_0, late.batch(7, 4).x_0)
    assert whole.batch(7, 4).captions == late.batch(7, 4).captions


def test_shards_are_used_again_and_remade_when_damaged(tmp_path: Path) -> None:
    calls: list[int] = []
    first = pool(tmp_path, calls)
    list(first.move_to(0))
    again = pool(tmp_path, calls)
    list(again.move_to(0))
    assert calls == [0, 1, 2, 3]
    os.truncate(next(tmp_path.rglob("shard-000001.safetensors")), 50)
    mended = pool(tmp_path, calls)
    list(mended.move_to(0))
    assert calls == [0, 1, 2, 3, 2, 3]
    assert torch.equal(mended.batch(3, 8).x_0, first.batch(3, 8).x_0)


def test_other_content_lies_in_another_folder(tmp_path: Path) -> None:
    config, stream = LatentPoolConfig(shard_size=2, window=1, encode_batch=2), Prefetched(PictureBatches(SHAPES, 2), 0)
    for identity in ({"autoencoder": "a"}, {"autoencoder": "b"}):
        list(LatentPool(config, tmp_path, identity, stream, encode, 0).move_to(0))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_sheet_holds_every_picture(tmp_path: Path) -> None:
    rows = [torch.full((3, 3, 8, 8), 1.0), torch.full((2, 3, 8, 8), -1.0)]
    with Image.open(save_sheet(rows, tmp_path / "a" / "sheet.png")) as sheet:
        assert sheet.size == (3 * 8 + 4, 2 * 8 + 2)
        assert sheet.getpixel((0, 0)) == (255, 255, 255) and sheet.getpixel((0, 12)) == (0, 0, 0)


def test_pixels_of_a_sheet_are_clamped_and_rounded(tmp_path: Path) -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.004, 1.0, 2.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    with Image.open(save_sheet([values], tmp_path / "sheet.png")) as sheet:
        assert np.asarray(sheet)[0, :, 0].tolist() == [0, 0, 128, 128, 255, 255]


def test_psnr_by_hand() -> None:
    zeros = torch.zeros(2, 3, 4, 4)
    assert psnr(zeros + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1), zeros).tolist() == pytest.approx(
        [20.0, 40.0], abs=1e-3
    )


def test_captions_of_a_folder_come_from_its_metadata_too(photos: Path) -> None:
    before = fingerprint(DataConfig(kind="folder", folder=photos, size=8))
    lines = '{"file_name": "00.png", "text": "not read"}\n{"file_name": "01.png", "text": "dark"}'
    (photos / "metadata.jsonl").write_text(lines)
    sampler = FolderSampler(photos, 0, 8, caption="grey", split="all")
    shown = Counter(sampler.scene(index).caption for index in range(60))
    assert shown == {"black": 1, "dark": 1, "grey": 58} and sampler.uncaptioned == 58
    assert before != fingerprint(DataConfig(kind="folder", folder=photos, size=8))
    (photos / "metadata.jsonl").write_text(lines.replace("01.png", "gone.png"))
    config = DataConfig(kind="folder", folder=photos, size=8)
    with pytest.raises(DataError, match=r"entry for a picture that is not there: line 2: 'gone\.png'") as caught:
        list(check_pictures(config, are_captions_read=True))
    assert caught.value.field == "data.folder"
    assert list(check_pictures(config, are_captions_read=False))


def test_what_is_not_learned_of_a_folder_is_said(photos: Path) -> None:
    (photos / "below").mkdir()
    (photos / "00.png").rename(photos / "below" / "00.png")
    config = DataConfig(kind="folder", folder=photos, size=8)

    def said(config: DataConfig, *, are_captions_read: bool) -> list[str]:
        events = check_pictures(config, are_captions_read=are_captions_read)
        return [event.message for event in events if isinstance(event, Notice)]

    below, held_out, bare = said(config, are_captions_read=True)
    assert below == f"Pictures in folders below {photos} are not learned from: 1. Move them up."
    assert bare.startswith("59 of 59 pictures have no caption and are learned with")
    assert said(config, are_captions_read=False) == [below, held_out]
    assert said(config.model_copy(update={"caption": "grey"}), are_captions_read=True) == [below, held_out]
    kept = len(FolderSampler(photos, 0, 8, split="held_out").files)
    assert 0 < kept < 10
    assert held_out == f"{kept} of 59 pictures are held out for validation: nothing is learned from them."


def test_a_folder_of_which_nothing_is_held_out_says_so(photos: Path) -> None:
    held_out = FolderSampler(photos, 0, 8).held_out
    everything = DataConfig(kind="folder", folder=photos, size=8, split="all")
    for count, config in ((60, everything), (60 - len(held_out), everything.model_copy(update={"split": "train"}))):
        events = list(check_pictures(config, are_captions_read=False))
        said = [event.message for event in events if isinstance(event, Notice)]
        assert said == [f"Of {count} pictures none is held out: validation is measured on training pictures."]
        validated, learned = (open_source(config, purpose) for purpose in ("validation", ""))
        assert isinstance(validated, FolderSampler) and isinstance(learned, FolderSampler)
        assert set(validated.files) <= set(learned.files)
        for path in held_out:
            path.unlink(missing_ok=True)


def test_names_that_are_not_utf8_are_learned_from(photos: Path) -> None:
    (photos / "03.png").rename(photos / os.fsdecode(b"caf\xe9.png"))
    assert len(FolderSampler(photos, 0, 8, split="all").files) == 60
    assert fingerprint(DataConfig(kind="folder", folder=photos, size=8))["files"]
