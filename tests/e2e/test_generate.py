"""Draw through the command line: files, recipes, one seed one picture, replay, picture-to-picture, masks."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as package
from sfumato.data.images import load_image, resize, to_pixels, to_tensor
from sfumato.formats.bundle import load_bundle, save_bundle
from sfumato.formats.png_recipe import encode_png, read_recipe
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.pipeline import Pipeline, Settings

Run = Callable[..., Any]
PROMPT = "a red fox"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture to start from, wider than high."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(ramp[None, :], ramp[:64, None], np.uint8(90)), -1)).save(path)
    return path


@pytest.fixture(scope="session")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White on the right half, of the photo's proportions."""
    path = tmp_path_factory.mktemp("mask") / "mask.png"
    picture = Image.new("L", (96, 64), 0)
    picture.paste(255, (48, 0, 96, 64))
    picture.save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_pictures_with_recipes(sfumato: Run, base: Path) -> None:
    answer = sfumato("generate", PROMPT, "--base", base, "-n", 2, "--steps", 2, "--seed", 5, "-o", "new/folder")
    assert answer.code == 0, answer.err
    assert "image: new/folder/a-red-fox-5.png" in answer.out and "image: new/folder/a-red-fox-6.png" in answer.out
    recipe = read_recipe(Path("new/folder/a-red-fox-6.png"))
    assert recipe["request"] == {
        "prompt": PROMPT,
        "negative_prompt": "",
        "steps": 2,
        "sampler": "dpm++2m",
        "guidance_scale": 4.0,
        "size": "32x32",
        "seed": 6,
    }
    assert (recipe["base"]["name"], len(recipe["base"]["hash"])) == ("tiny", 64)
    with Image.open("new/folder/a-red-fox-6.png") as picture:
        assert picture.size == (32, 32)
        assert "Seed: 6, Size: 32x32" in picture.text["parameters"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("sampler", ["dpm++2m", "euler-ancestral"])
def test_one_seed_one_picture(sampler: str, sfumato: Run, base: Path) -> None:
    common = (PROMPT, "--base", base, "--steps", 3, "--sampler", sampler)
    assert sfumato("generate", *common, "-n", 3, "--seed", 10, "-o", "many").code == 0
    assert sfumato("generate", *common, "-n", 3, "--seed", 10, "--batch-size", 1, "-o", "single").code == 0
    assert sfumato("generate", *common, "--seed", 12, "-o", "alone").code == 0
    wanted = Path("alone/a-red-fox-12.png").read_bytes()
    assert Path("many/a-red-fox-12.png").read_bytes() == wanted == Path("single/a-red-fox-12.png").read_bytes()
    assert (pixels(Path("many/a-red-fox-11.png")) != pixels(Path("many/a-red-fox-12.png"))).any()


def test_nothing_is_overwritten(sfumato: Run, base: Path) -> None:
    for steps in (2, 2, 3):
        assert sfumato("generate", PROMPT, "--base", base, "--steps", steps).code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["a-red-fox-0-2.png", "a-red-fox-0.png"]


def test_json_lines(sfumato: Run, base: Path) -> None:
    answer = sfumato("generate", PROMPT, "--base", base, "--steps", 2, "--json")
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [line["event"] for line in lines] == ["step", "step", "artifact", "done"]
    assert lines[2]["path"] == "out/a-red-fox-0.png" and lines[2]["info"] == {"seed": 0, "prompt": PROMPT}


@pytest.mark.parametrize(
    ("options", "recorded", "shown"),
    [
        (("--guidance-rescale", 0.7), {"guidance_rescale": 0.7}, "CFG Rescale: 0.7"),
        (("--guidance-interval", "0.2:0.9"), {"guidance_interval": "0.2:0.9"}, 'CFG interval: "0.2:0.9"'),
        (("--spacing", "karras"), {"spacing": "karras"}, "Schedule type: karras"),
        (("--spacing", "leading"), {"spacing": "leading"}, "Schedule type: leading"),
        (("--sampler", "ddim", "--eta", 1), {"eta": 1.0}, "Eta: 1.0"),
    ],
)
def test_how_steps_and_guidance_go_can_be_chosen_and_replayed(
    options: tuple[Any, ...], recorded: dict[str, Any], shown: str, sfumato: Run, base: Path
) -> None:
    common = ("generate", PROMPT, "--base", base, "--steps", 4, "--seed", 3)
    assert sfumato(*common, *options[:2] * (options[0] == "--sampler"), "-o", "usual").code == 0
    answer = sfumato(*common, *options, "-o", "chosen")
    assert answer.code == 0, answer.err
    usual, chosen = (Path(folder) / "a-red-fox-3.png" for folder in ("usual", "chosen"))
    assert (pixels(usual) != pixels(chosen)).any()
    added = {key: value for key, value in read_recipe(chosen)["request"].items() if key in recorded}
    assert added == recorded and not set(recorded) & set(read_recipe(usual)["request"])
    with Image.open(chosen) as picture:
        assert shown in picture.text["parameters"]  # type: ignore[attr-defined]
    assert sfumato("replay", chosen).code == 0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--guidance", 1, "--guidance-rescale", 0.7), ("--guidance-rescale 0.7", "switches guidance off")),
        (("--guidance", 1, "--guidance-interval", "0.2:0.9"), ("--guidance-interval 0.2:0.9", "above 1")),
        (("--guidance", 1, "--negative", "blue"), ("--negative blue was given with --guidance 1",)),
        (("--guidance", 0, "--guidance-rescale", 0.7), ("--guidance-rescale 0.7 was given with --guidance 0",)),
        (("--seed", 2**53 - 2, "-n", 3), ("with 3 pictures ends at seed 9007199254740992",)),
        (("--eta", 0.5), ("dpm++2m has no option eta",)),
        (("--guidance-interval", "0.9:0.2"), ("--guidance-interval", "the lower one first")),
        (("--guidance-interval", "0.9"), ("--guidance-interval: given '0.9'", "as 0.2:0.9")),
        (("--spacing", "quadratic"), ("trailing, leading, linspace, karras",)),
    ],
)
def test_choices_that_do_nothing_or_mean_nothing_are_refused(
    options: tuple[Any, ...], parts: tuple[str, ...], sfumato: Run, base: Path
) -> None:
    answer = sfumato("generate", PROMPT, "--base", base, "--steps", 2, *options)
    assert answer.code == 2 and not Path("out").exists()
    for part in parts:
        assert part in answer.err


def test_sizes_negative_and_guidance_matter(sfumato: Run, base: Path) -> None:
    common = ("generate", PROMPT, "--base", base, "--steps", 2)
    assert sfumato(*common, "--size", "48x32", "-o", "wide").code == 0
    assert pixels(Path("wide/a-red-fox-0.png")).shape == (32, 48, 3)
    for folder, options in (
        ("plain", ()),
        ("off", ("--guidance", 1)),
        ("not", ("--negative", "a blue robot")),
    ):
        assert sfumato(*common, *options, "-o", folder).code == 0
    seen = {pixels(Path(folder) / "a-red-fox-0.png").tobytes() for folder in ("plain", "off", "not")}
    assert len(seen) == 3


def test_start_from_a_picture(sfumato: Run, base: Path, photo: Path) -> None:
    common = ("generate", PROMPT, "--base", base, "--steps", 10, "--init-image", photo)
    assert sfumato(*common, "--strength", 0.1, "-o", "near").code == 0
    assert sfumato(*common, "--strength", 0.9, "-o", "far").code == 0
    recipe = read_recipe(Path("near/a-red-fox-0.png"))
    assert recipe["init_image"]["path"] == str(photo) and recipe["request"]["strength"] == 0.1
    assert (pixels(Path("near/a-red-fox-0.png")) != pixels(Path("far/a-red-fox-0.png"))).any()


def test_masks_keep_what_is_black(sfumato: Run, base: Path, photo: Path, mask: Path) -> None:
    answer = sfumato(
        "generate", PROMPT, "--base", base, "--steps", 4, "--init-image", photo, "--mask", mask, "--strength", 1
    )
    assert answer.code == 0, answer.err
    drawn = pixels(Path("out/a-red-fox-0.png"))
    with Image.open(photo) as opened:
        kept = np.asarray(opened.resize((32, 32), Image.Resampling.LANCZOS, box=(16, 0, 80, 64))).astype(int)
    assert (drawn[:, :16] == kept[:, :16]).all()
    assert (abs(drawn[:, 18:] - kept[:, 18:]) > 8).any()


def test_a_grey_mask_mixes_once(sfumato: Run, base: Path, photo: Path) -> None:
    Image.new("L", (96, 64), 128).save("grey.png")
    common = ("generate", PROMPT, "--base", base, "--steps", 3, "--init-image", photo, "--mask", "grey.png")
    assert sfumato(*common, "--strength", 1).code == 0
    picture = to_tensor(resize(load_image(photo).rgb, 32, 32))[None]
    mask = torch.full((1, 1, 32, 32), 128 / 255)
    (drawn,) = Pipeline(load_bundle(base)).images(
        [PROMPT], [0], Settings(steps=3, strength=1.0), init_image=picture, mask=mask
    )
    assert (to_pixels(drawn) == pixels(Path("out/a-red-fox-0.png"))).all()


def test_what_is_cut_off_a_picture_is_said(sfumato: Run, base: Path, photo: Path) -> None:
    Image.new("RGB", (96, 64), "red").save("wide.png")
    common = ("generate", PROMPT, "--base", base, "--steps", 1, "--init-image", "wide.png")
    answer = sfumato(*common)
    assert "wide.png is 96x64: its middle is cut to 32x32, 33% of it is left out. Give --size" in answer.out
    assert "is left out" not in sfumato(*common, "--size", "48x32").out


def test_numbers_that_are_none_become_no_picture(sfumato: Run, base: Path) -> None:
    shutil.copytree(base, "bad")
    weights = Path("bad/unet/diffusion_pytorch_model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in read_safetensors(weights).items()}
    tensors["conv_out.bias"][0] = float("nan")
    write_safetensors(weights, tensors)
    answer = sfumato("generate", PROMPT, "--base", "bad", "--steps", 1)
    assert answer.code == 2 and "The picture of seed 0 holds numbers that are not finite" in answer.err
    assert not list(Path("out").glob("*.png"))


def test_replay_gives_the_same_bytes(sfumato: Run, base: Path, photo: Path, mask: Path) -> None:
    assert sfumato("generate", PROMPT, "--base", base, "--steps", 2, "-n", 2).code == 0
    answer = sfumato("replay", "out/a-red-fox-1.png", "-o", "again", "--json")
    assert answer.code == 0, answer.out
    assert json.loads(answer.out.splitlines()[-1])["info"] == {"identical": True}
    assert Path("again/a-red-fox-1.png").read_bytes() == Path("out/a-red-fox-1.png").read_bytes()
    inputs = ("--init-image", photo, "--mask", mask)
    assert sfumato("generate", PROMPT, "--base", base, "--steps", 4, *inputs, "-o", "masked").code == 0
    assert sfumato("replay", "masked/a-red-fox-0.png").code == 0


def test_replay_finds_files_that_have_moved(sfumato: Run, base: Path, photo: Path) -> None:
    shutil.copy(photo, "here.png")
    assert sfumato("generate", PROMPT, "--base", base, "--steps", 2, "--init-image", "here.png").code == 0
    Path("elsewhere").mkdir()
    Path("here.png").rename("elsewhere/here.png")
    missing = sfumato("replay", "out/a-red-fox-0.png")
    assert missing.code == 2
    assert "init_image is missing: 'here.png' with SHA-256 " in missing.err and "--search" in missing.err
    assert sfumato("replay", "out/a-red-fox-0.png", "--search", "elsewhere").code == 0
    Image.new("RGB", (9, 9)).save("elsewhere/here.png")
    other = sfumato("replay", "out/a-red-fox-0.png", "--search", "elsewhere")
    assert other.code == 2 and "init_image differs: 'elsewhere/here.png' has SHA-256 " in other.err


def test_replay_passes_by_what_it_may_not_look_at(
    sfumato: Run, base: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a picture that was drawn by somebody else, whose folder is closed, and whose file lies beside it."""
    Path("closed").mkdir()
    photo.rename("closed/here.png")
    answer = sfumato("generate", PROMPT, "--base", base, "--steps", 2, "--init-image", "closed/here.png")
    assert answer.code == 0, answer.err
    shutil.copy("closed/here.png", "out/here.png")
    looked = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    answer = sfumato("replay", "out/a-red-fox-0.png")
    assert answer.code == 0, answer.err


def test_replay_finds_a_base_that_has_moved(sfumato: Run, base: Path) -> None:
    shutil.copytree(base, "models/mine")
    index = Path("models/mine/model_index.json")
    content = json.loads(index.read_text())
    del content["_sfumato_name"]  # so that it is called as its folder is, like those of others
    index.write_text(json.dumps(content))
    assert sfumato("generate", PROMPT, "--base", "models/mine", "--steps", 2).code == 0
    replayed = ("replay", "out/a-red-fox-0.png")
    assert read_recipe(Path("out/a-red-fox-0.png"))["base"]["name"] == "mine"
    Path("disk").mkdir()
    Path("models/mine").rename("disk/mine")
    missing = sfumato(*replayed)
    assert missing.code == 2 and "base is missing: 'models/mine' with hash " in missing.err, missing.err
    assert "--base" in missing.err and "--search" in missing.err
    assert sfumato(*replayed, "--search", "disk").code == 0
    Path("disk/mine").rename("disk/other")
    assert sfumato(*replayed, "--search", "disk").code == 2
    assert sfumato(*replayed, "--base", "disk/other").code == 0
    bundle = load_bundle("disk/other")
    bundle.unet.conv_in.weight.mul_(2)
    save_bundle(bundle, Path("disk/mine"))
    for way in ("--search", "disk"), ("--base", "disk/mine"):
        other = sfumato(*replayed, *way)
        assert other.code == 2 and "base differs: 'disk/mine' has hash " in other.err, other.err
    shutil.copytree("disk/other", "more/mine")
    assert sfumato(*replayed, "--search", "disk", "--search", "more").code == 0


def test_the_embedded_base_is_recorded_by_its_name(
    sfumato: Run, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases = tmp_path / "installed" / "bases"
    shutil.copytree(base, bases / "primer")
    monkeypatch.setattr("sfumato.formats.embedded.BASES", bases.resolve())
    (picture,) = package.generate(PROMPT, base=package.load(), steps=2)
    (named,) = package.generate(PROMPT, steps=2)
    (told,) = package.generate(PROMPT, base=bases / "primer", steps=2)
    assert picture.recipe["base"]["path"] == "primer"
    assert picture.to_png() == named.to_png() == told.to_png()
    assert str(tmp_path).encode() not in picture.to_png()
    path = picture.save("new.png")
    assert sfumato("replay", path).code == 0
    for older in ("/opt/elsewhere/sfumato/bases/primer", r"C:\python\sfumato\bases\primer"):
        recipe = {**picture.recipe, "base": {**picture.recipe["base"], "path": older}}
        Path("old.png").write_bytes(encode_png(picture.image, recipe))
        answer = sfumato("replay", "old.png")
        assert answer.code == 0, answer.err


def test_replay_says_what_differs(sfumato: Run, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, "base")
    assert sfumato("generate", PROMPT, "--base", "base", "--steps", 2).code == 0
    path = Path("out/a-red-fox-0.png")
    recipe = read_recipe(path)
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    path.write_bytes(encode_png(picture, recipe | {"sfumato": "0.0.1"}))
    answer = sfumato("replay", path)
    assert answer.code == 2
    assert "sfumato: recorded 0.0.1, here 0.1.0; the pixels are the same, only the bytes" in answer.err
    path.write_bytes(encode_png(picture.rotate(90), recipe))
    answer = sfumato("replay", path)
    assert answer.code == 2 and "% of the pixels differ, by at most " in answer.err and "of 255" in answer.err
    path.write_bytes(encode_png(picture, recipe | {"base": {**recipe["base"], "hash": "0" * 64}}))
    answer = sfumato("replay", path)
    assert answer.code == 2 and "base differs: 'base' has hash " in answer.err
    path.write_bytes(encode_png(picture, {**recipe, "request": {**recipe["request"], "steps": "many"}}))
    answer = sfumato("replay", path)
    assert answer.code == 2 and "is damaged or of another version: ValidationError." in answer.err


def test_cold_start(base: Path, tmp_path: Path) -> None:
    """From nothing to the first PNG: at most 4 s of the processor, and only what drawing needs is imported."""
    code = (
        "import sys, time; from sfumato.cli.main import main\n"
        f"code = main(['generate', 'a red fox', '--base', {str(base)!r}, '--steps', '2'])\n"
        "print(code, time.process_time(), *sorted({m.split('.')[0] for m in sys.modules} | set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    code_, seconds, *modules = done.stdout.splitlines()[-1].split()
    assert code_ == "0" and float(seconds) <= 4
    heavy = {"torch._dynamo", "sympy", "transformers", "diffusers", "peft", "sklearn", "scipy", "tensorboard", "rich"}
    assert not heavy & set(modules)
    assert not {name for name in modules if name.startswith(("sfumato.training", "sfumato.evaluation"))}


@pytest.mark.parametrize(
    ("value", "said"), [(0, "is black everywhere"), (1, "is nowhere white (its highest value is 1 of 255)")]
)
def test_masks_that_mark_nothing(sfumato: Run, base: Path, value: int, said: str) -> None:
    Image.new("RGB", (32, 32), "red").save("start.png")
    Image.new("L", (32, 32), value).save("mask.png")
    words = ("generate", "a fox", "--base", base, "--steps", 2, "--init-image", "start.png", "--mask", "mask.png")
    answer = sfumato(*words)
    assert answer.code == 2 and said in answer.err and "nothing would be drawn" in answer.err
    assert not Path("out").exists()


def test_a_mask_whose_marks_are_cut_off(sfumato: Run, base: Path) -> None:
    Image.new("RGB", (96, 32), "red").save("start.png")
    mask = Image.new("L", (96, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    mask.save("mask.png")
    words = ("generate", "a fox", "--base", base, "--steps", 2, "--init-image", "start.png", "--mask", "mask.png")
    answer = sfumato(*words)
    assert answer.code == 2 and "marks nothing in the middle of the picture" in answer.err
    assert sfumato(*words, "--size", "96x32").code == 0


def test_a_picture_of_a_weak_mask_is_drawn_again(sfumato: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (32, 32), "red").save("start.png")
    Image.new("L", (32, 32), 9).save("mask.png")
    with monkeypatch.context() as patch:
        patch.setattr("sfumato.operations.pictures.MOST_LABELS", 0)  # as it was before such masks were refused
        words = ("generate", "a fox", "--base", base, "--steps", 2, "--init-image", "start.png", "--mask", "mask.png")
        assert sfumato(*words).code == 0
    (drawn,) = Path("out").glob("*.png")
    answer = sfumato("replay", drawn, "--base", base)
    assert answer.code == 0, answer.err
