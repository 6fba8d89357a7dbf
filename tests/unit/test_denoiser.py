"""The denoise contract: raw outputs, x_0, guidance in one batch, prepared contexts."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.levels import Level, spaced_levels
from sfumato.diffusion.parameterization import PREDICTIONS, Prediction
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.errors import ShapeError
from sfumato.models.denoiser import Condition, Denoiser
from sfumato.models.unet import UNet, UNetConfig
from sfumato.nn.attention import Attention

CONFIG = UNetConfig(2, 2, (8, 16), num_heads=2, context_dim=6, norm_groups=4, blocks_per_level=1)
SCHEDULE = Schedule(ScheduleConfig())
LEVEL = SCHEDULE.level(400.0)
X_T = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))


def make(config: UNetConfig = CONFIG, prediction: Prediction = "eps") -> Denoiser:
    torch.manual_seed(0)
    unet = UNet(config).requires_grad_(False)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    return Denoiser(unet, SCHEDULE, prediction)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x_0_follows_from_the_output(prediction: Prediction) -> None:
    denoiser = make(prediction=prediction)
    output = denoiser.output(X_T, torch.tensor([400, 400]), CONTEXT)
    alpha, sigma = LEVEL.alpha, LEVEL.sigma
    expected = {"eps": (X_T - sigma * output) / alpha, "x_0": output, "v": alpha * X_T - sigma * output}
    torch.testing.assert_close(denoiser.bind(CONTEXT)(X_T, LEVEL), expected[prediction], atol=1e-5, rtol=1e-5)


def test_binding_computes_keys_and_values_once() -> None:
    denoiser, project = make(), Attention.project
    with mock.patch.object(Attention, "project", autospec=True, side_effect=project) as calls:
        denoise = denoiser.bind(CONTEXT)
        for level in spaced_levels(SCHEDULE, 3)[:-1]:
            denoise(X_T, level)
    cross = [call for call in calls.call_args_list if call.args[0].context_width is not None]
    assert len(cross) == 7


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_guidance_equals_two_separate_calls(scale: float) -> None:
    denoiser, empty = make(), torch.zeros_like(CONTEXT)
    cond, uncond = denoiser.bind(CONTEXT)(X_T, LEVEL), denoiser.bind(empty)(X_T, LEVEL)
    guided = denoiser.bind_guided(Condition(CONTEXT), Condition(empty), scale)
    torch.testing.assert_close(guided(X_T, LEVEL), uncond + scale * (cond - uncond), atol=1e-5, rtol=1e-5)


def count_rows(denoiser: Denoiser, scale: float, level: Level) -> list[int]:
    """Return the batch size of every call of the network."""
    rows: list[int] = []
    denoiser.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    condition, empty = Condition(CONTEXT), Condition(torch.zeros_like(CONTEXT))
    denoiser.bind_guided(condition, empty, scale, interval=(0.2, 0.9))(X_T, level)
    return rows


def test_guidance_runs_one_batch_and_only_where_it_acts() -> None:
    assert count_rows(make(), 3.0, Level(400.0, 0.8, 0.6)) == [4]
    assert count_rows(make(), 3.0, Level(10.0, 0.995, 0.0999)) == [2]
    assert count_rows(make(), 1.0, Level(400.0, 0.8, 0.6)) == [2]


def test_all_conditions_reach_the_network_and_are_stacked() -> None:
    denoiser = make(dataclasses.replace(CONFIG, num_classes=3, concat_channels=1, vector_width=2))

    def condition(value: float) -> Condition:
        return Condition(CONTEXT, torch.tensor([1, 2]), torch.full((2, 1, 4, 4), value), torch.full((2, 2), value))

    def bound(value: float) -> Tensor:
        parts = condition(value)
        denoise = denoiser.bind(
            parts.context, class_labels=parts.class_labels, concat=parts.concat, vector=parts.vector
        )
        return denoise(X_T, LEVEL)

    cond, uncond = bound(0.5), bound(-0.5)
    assert not torch.allclose(cond, uncond)
    guided = denoiser.bind_guided(condition(0.5), condition(-0.5), 2.0)(X_T, LEVEL)
    torch.testing.assert_close(guided, 2 * cond - uncond, atol=1e-5, rtol=1e-5)


def test_network_without_context() -> None:
    denoiser = make(dataclasses.replace(CONFIG, context_dim=None))
    assert denoiser.bind()(X_T, LEVEL).shape == X_T.shape


def test_conditions_that_do_not_match_are_refused() -> None:
    denoiser = make()
    message = r"cond and uncond do not match: context has shape \(2, 3, 6\) on one side and \(1, 3, 6\)"
    with pytest.raises(ShapeError, match=message):
        denoiser.bind_guided(Condition(CONTEXT), Condition(CONTEXT[:1]), 3.0)
    with pytest.raises(ShapeError, match="concat has shape None on one side and"):
        Condition(CONTEXT).stacked(Condition(CONTEXT, concat=torch.zeros(2, 1, 4, 4)))
    with pytest.raises(ShapeError, match="A prepared context cannot be stacked"):
        denoiser.prepare(Condition(CONTEXT)).stacked(Condition(CONTEXT))
    with pytest.raises(ShapeError, match=r"class_labels are \[1, 3\]; the network knows 0 to 2"):
        make(dataclasses.replace(CONFIG, num_classes=3)).bind(CONTEXT, class_labels=torch.tensor([1, 3]))
