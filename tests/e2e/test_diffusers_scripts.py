"""The comparison with diffusers' scripts runs from end to end, with scripts of the test's own in their place."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import argparse, json, sys
from pathlib import Path
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms

made = argparse.ArgumentParser()
for name in NAMES:
    made.add_argument("--" + name, required=name != "learning_rate")
for name in ("center_crop", "train_text_encoder"):
    made.add_argument("--" + name, action="store_true")
given = made.parse_args()
whole = transforms.Compose([transforms.Resize(int(given.resolution)), transforms.ToTensor()])
pictures = [whole(Image.open(path)) for path in Path(getattr(given, FOLDER)).iterdir()]
assert pictures and all(picture.shape[1:] == (32, 32) for picture in pictures)
base, output = Path(given.pretrained_model_name_or_path), Path(given.output_dir)
(output / "given.json").write_text(json.dumps(vars(given)))
torch.manual_seed(int(given.seed))
"""
LORA = """
found = {}
for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
    for key, weight in load_file(base / part / f"{file}.safetensors").items():
        module, infix = key.removesuffix(".weight"), "lora" if part == "unet" else "lora_linear_layer"
        if module.endswith(("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")):
            rank, (out, into) = int(given.rank), weight.shape
            found[f"{part}.{module}.{infix}.down.weight"] = torch.randn(rank, into) * 0.1
            found[f"{part}.{module}.{infix}.up.weight"] = torch.randn(out, rank) * 0.1
save_file(found, output / "pytorch_lora_weights.safetensors")
"""
WORD = """
width = json.loads((base / "text_encoder/config.json").read_text())["hidden_size"]
save_file({given.placeholder_token: torch.randn(1, width)}, output / "learned_embeds.safetensors")
"""
SHARED = (
    *("pretrained_model_name_or_path", "output_dir", "resolution", "seed", "train_batch_size", "max_train_steps"),
    "learning_rate",
)


def write_scripts(folder: Path) -> None:
    """Write two scripts that take the options of diffusers' and write files in its format, without learning."""
    folder.mkdir()
    for name, own, pictures, end in (
        ("train_dreambooth_lora.py", ("instance_prompt", "rank"), "instance_data_dir", LORA),
        ("textual_inversion.py", ("placeholder_token", "initializer_token"), "train_data_dir", WORD),
    ):
        text = SCRIPT.replace("NAMES", repr((*SHARED, *own, pictures))).replace("FOLDER", repr(pictures))
        (folder / name).write_text(text + end)


@pytest.mark.slow
def test_both_sides_are_judged(tmp_path: Path) -> None:
    write_scripts(tmp_path / "scripts")
    command = [sys.executable, "-m", "benchmarks", "diffusers_scripts", "--tiny", "--threads", "1"]
    command += ["--scripts", str(tmp_path / "scripts"), "--output", str(tmp_path / "out"), "--their-steps", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("sfumato, its verdict (step 2)", "sfumato, no verdict (step 2)", "its own learning rate"):
        assert (
            len(re.findall(re.escape(title) + r" +\d+\.\d s +\d\.\d\d GiB +-?\d\.\d{3} +-?\d\.\d{3}\n", done.stdout))
            == 2
        )
    assert "diffusers, ours (0.001)" in done.stdout and "diffusers, ours (0.005)" in done.stdout
    assert len(re.findall(r"as good on both axes: (?:holds|DOES NOT HOLD), subject", done.stdout)) == 4
    given = json.loads((tmp_path / "out/lora/our-rate/given.json").read_text())
    assert given["learning_rate"] == "0.001" and given["train_text_encoder"] and given["rank"] == "2"
    assert given["max_train_steps"] == "7" and "2 steps, theirs 7, of 1" in done.stdout
    assert re.fullmatch("a [a-z]{2,3} dog", given["instance_prompt"])
    own = json.loads((tmp_path / "out/textual-inversion/their-rate/given.json").read_text())
    assert own["learning_rate"] is None and own["initializer_token"] == "dog"
