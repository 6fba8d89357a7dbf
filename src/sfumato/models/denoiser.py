"""Network + schedule + kind of prediction = `denoise(x_t, level) -> x_0`, all that samplers know."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.diffusion.guidance import guided
from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.diffusion.parameterization import Prediction, check_prediction, to_x_0
from sfumato.diffusion.schedules import Schedule
from sfumato.errors import ShapeError
from sfumato.models.unet import UNet
from sfumato.nn.attention import ContextCache
from sfumato.runtime.precision import Holding, computing_as_held
from sfumato.tensors import Latents, Times

TokenFeatures = Float[Tensor, "_b _l _d"]
Labels = Int[Tensor, "_b"]
Maps = Float[Tensor, "_b _c _h _w"]
Vectors = Float[Tensor, "_b _d"]


@dataclass(frozen=True, eq=False)
class Condition:
    """Everything that steers the network besides the noisy latents; one row per picture.

    Args:
        context: Features per token for the cross-attention, or their prepared keys and values.
        class_labels: One class per picture.
        concat: Maps that are concatenated to the latents.
        vector: One vector per picture.
    """

    context: TokenFeatures | ContextCache | None = None
    class_labels: Labels | None = None
    concat: Maps | None = None
    vector: Vectors | None = None

    def stacked(self, other: Condition) -> Condition:
        """Put the rows of another condition behind these.

        Args:
            other: A condition with the same parts; its context is not prepared.

        Returns:
            One condition of twice the rows.

        Raises:
            ShapeError: A part is missing on one side or has another shape, or a context is prepared already.
        """
        if isinstance(self.context, ContextCache) or isinstance(other.context, ContextCache):
            raise ShapeError(
                "A prepared context cannot be stacked.", field="context", hint="Stack first, then prepare."
            )
        return Condition(
            joined("context", self.context, other.context),
            joined("class_labels", self.class_labels, other.class_labels),
            joined("concat", self.concat, other.concat),
            joined("vector", self.vector, other.vector),
        )


def joined(name: str, first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Concatenate the same part of two conditions.

    Args:
        name: Name of the part.
        first: Rows to come first.
        second: Rows to come behind.

    Returns:
        All rows, or None when both have none.

    Raises:
        ShapeError: One side is missing or has another shape.
    """
    if first is None and second is None:
        return None
    shapes = [None if part is None else tuple(part.shape) for part in (first, second)]
    if first is None or second is None or shapes[0] != shapes[1]:
        raise ShapeError(
            f"cond and uncond do not match: {name} has shape {shapes[0]} on one side and {shapes[1]} on the other.",
            field=name,
            hint="Give both sides the same parts for the same number of pictures.",
        )
    return torch.cat((first, second))


class Denoiser:
    """A U-Net with what is needed to read its output.

    Args:
        unet: The network.
        schedule: The noise schedule it was trained on.
        prediction: What it predicts.
        held_in: Numbers in which the network's weights are held, see `runtime.precision.hold`.

    Raises:
        ConfigError: Unknown prediction.
    """

    def __init__(self, unet: UNet, schedule: Schedule, prediction: Prediction, held_in: Holding = "fp32") -> None:
        check_prediction(prediction)
        self.held_in: Holding = held_in
        self.unet = unet
        self.schedule = schedule
        self.prediction = prediction

    def output(
        self,
        x_t: Latents,
        t: Times,
        context: TokenFeatures | None = None,
        *,
        class_labels: Labels | None = None,
        concat: Maps | None = None,
        vector: Vectors | None = None,
    ) -> Latents:
        """Return the raw output of the network, as the training loss compares it with its target.

        Args:
            x_t: Noisy latents.
            t: Training time of every row.
            context: Features per token.
            class_labels: One class per row.
            concat: Maps that are concatenated to the latents.
            vector: One vector per row.

        Returns:
            eps, x_0 or v, depending on `prediction`.

        Raises:
            ShapeError: A condition is missing, is not taken, or does not fit.
        """
        with computing_as_held(self.held_in, x_t.device):
            out: Tensor = self.unet(x_t, t, context, class_labels=class_labels, concat=concat, vector=vector)
        return out.to(x_t.dtype)

    def denoise(self, x_t: Latents, level: Level, condition: Condition) -> Latents:
        """Estimate the clean latents from noisy ones.

        Args:
            x_t: Noisy latents, all at the same level.
            level: Their noise level.
            condition: What steers the network.

        Returns:
            x_0, same shape.

        Raises:
            ShapeError: A condition is missing, is not taken, or does not fit.
            ConfigError: An eps prediction at alpha 0.
        """
        draws = not torch.is_grad_enabled()  # without gradients the library need not keep book of every call
        with computing_as_held(self.held_in, x_t.device), torch.inference_mode(draws):
            output = self.unet(
                x_t,
                level.t,
                condition.context,
                class_labels=condition.class_labels,
                concat=condition.concat,
                vector=condition.vector,
            )
        output = output.clone() if draws else output  # what was made there could not be changed in place
        return to_x_0(self.prediction, output.to(x_t.dtype), x_t, level.alpha, level.sigma)

    def prepare(self, condition: Condition) -> Condition:
        """Compute once what does not change between steps: keys and values of the context.

        Args:
            condition: What steers the network.

        Returns:
            The same with a prepared context.

        Raises:
            ShapeError: The context does not fit, or a class does not exist.
        """
        labels, classes = condition.class_labels, self.unet.config.num_classes
        if labels is not None and classes is not None and not bool(((labels >= 0) & (labels < classes)).all()):
            raise ShapeError(
                f"class_labels are {labels.tolist()}; the network knows 0 to {classes - 1}.", field="class_labels"
            )
        if condition.context is None or isinstance(condition.context, ContextCache):
            return condition
        with computing_as_held(self.held_in, condition.context.device):
            return replace(condition, context=self.unet.prepare_context(condition.context))

    def bind(
        self,
        context: TokenFeatures | ContextCache | None = None,
        *,
        class_labels: Labels | None = None,
        concat: Maps | None = None,
        vector: Vectors | None = None,
    ) -> Denoise:
        """Fix the condition, so that only latents and level are left.

        The keys and values of the context are computed here, once for all steps; bind again after training or after
        attaching an adapter.

        Args:
            context: Features per token.
            class_labels: One class per picture.
            concat: Maps that are concatenated to the latents.
            vector: One vector per picture.

        Returns:
            `(x_t, level) -> x_0`.

        Raises:
            ShapeError: A condition is missing, is not taken, or does not fit.
        """
        condition = self.prepare(Condition(context, class_labels, concat, vector))
        return lambda x_t, level: self.denoise(x_t, level, condition)

    def bind_guided(
        self,
        cond: Condition,
        uncond: Condition,
        guidance_scale: float,
        rescale: float = 0.0,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> Denoise:
        """Fix a wanted and an unwanted condition; both run in one batch of twice the rows ([ho2022] eq. 6).

        Keys and values are computed once for every combination that guidance really uses: at scale 1 or 0 one side,
        else both together.

        Args:
            cond: The wanted condition.
            uncond: The empty or unwanted condition.
            guidance_scale: 1 = off (cond), 0 = uncond; more pulls towards cond.
            rescale: Share of the standard deviation of cond to restore, 0 to 1.
            interval: Noise levels sigma at which guidance acts.

        Returns:
            `(x_t, level) -> x_0`.

        Raises:
            ShapeError: The conditions do not match each other or the network.
            ConfigError: `rescale` or `interval` is out of range.
        """
        prepared: dict[Condition, Condition] = {}

        def denoise(x_t: Tensor, level: Level, condition: Condition) -> Tensor:
            if condition not in prepared:
                prepared[condition] = self.prepare(condition)
            return self.denoise(x_t, level, prepared[condition])

        return guided(denoise, cond, uncond, guidance_scale, rescale, interval, stack=lambda a, b: a.stacked(b))
