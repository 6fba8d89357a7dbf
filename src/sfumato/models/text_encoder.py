"""The text side of the condition: a causal transformer over token ids ([radford2021] 2.4).

State-dict keys are those of the text encoder in Stable Diffusion folders (`text_model.…`, the transformers
`CLIPTextModel`), so that a saved folder loads there unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.errors import ConfigError, ShapeError
from sfumato.nn.attention import attend, check_heads, split_heads
from sfumato.nn.stored import Linear
from sfumato.tensors import Context, Pooled, Tokens

Activation = Literal["quick_gelu", "gelu"]
ExtraRows = Float[Tensor, "_n _d"]


@dataclass(frozen=True)
class TextEncoderConfig:
    """Shape of a text encoder.

    Args:
        vocab_size: Rows of the token table.
        width: Channels of every token.
        layers: Number of transformer layers.
        heads: Attention heads; must divide `width`.
        mlp_width: Channels inside the feed-forward, usually four times `width`.
        context_length: Longest text in tokens, start and end included.
        activation: `quick_gelu` (`x * sigmoid(1.702 x)`, Stable Diffusion 1) or exact `gelu` (2).
        bos_id: Id of the start token.
        eos_id: Id of the end token, where the pooled features are read.
        pad_id: Id of the padding behind the end.

    Raises:
        ConfigError: The values contradict one another.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    context_length: int
    activation: Activation
    bos_id: int
    eos_id: int
    pad_id: int

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        if self.activation not in get_args(Activation):
            raise ConfigError(
                f"activation is {self.activation!r}; known are {', '.join(get_args(Activation))}.",
                field="activation",
            )
        for field in ("bos_id", "eos_id", "pad_id"):
            value: int = getattr(self, field)
            if not 0 <= value < self.vocab_size:
                raise ConfigError(
                    f"{field} is {value}, outside the vocabulary of {self.vocab_size} tokens.", field=field
                )


def text_encoder_sd1() -> TextEncoderConfig:
    """CLIP ViT-L/14, the text encoder of Stable Diffusion 1.x (123,060,480 parameters)."""
    return TextEncoderConfig(49408, 768, 12, 12, 3072, 77, "quick_gelu", 49406, 49407, 49407)


def text_encoder_sd2() -> TextEncoderConfig:
    """OpenCLIP ViT-H without its last layer, the text encoder of Stable Diffusion 2.x; pads with `!`."""
    return TextEncoderConfig(49408, 1024, 23, 16, 4096, 77, "gelu", 49406, 49407, 0)


class TextFeatures(NamedTuple):
    """What a text means to the denoiser."""

    context: Context
    """One vector per token: final-LayerNorm hidden states of all positions, padding included."""
    pooled: Pooled
    """One vector per text: the hidden state at the first end token."""


class SelfAttention(nn.Module):
    """Causal multi-head self-attention with biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Context) -> Context:
        """Let every token look at itself and the tokens before it."""
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.q_proj, self.k_proj, self.v_proj))
        out: Tensor = self.out_proj(attend(q, k, v, causal=True))
        return out


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.fc1 = Linear(config.width, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.width)

    def forward(self, x: Context) -> Context:
        """Apply the layers."""
        hidden = self.fc1(x)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden))
        return out


class Layer(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm and added to its input."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config.width, config.heads)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Context) -> Context:
        """Apply both parts."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Embeddings(nn.Module):
    """Token and position tables."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)

    def forward(self, tokens: Tokens, extra_rows: ExtraRows | None) -> Context:
        """Look up tokens, beyond the vocabulary in `extra_rows`, and add the positions."""
        vocab_size = self.token_embedding.num_embeddings
        positions = self.position_embedding(torch.arange(tokens.shape[1], device=tokens.device))
        rows: Tensor = self.token_embedding(tokens.clamp(max=vocab_size - 1))
        if extra_rows is not None and len(extra_rows):
            extra = F.embedding((tokens - vocab_size).clamp(min=0), extra_rows).to(rows.dtype)
            rows = torch.where((tokens >= vocab_size)[..., None], extra, rows)
        out: Tensor = rows + positions
        return out


class LayerStack(nn.Module):
    """All layers, one after the other."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Context) -> Context:
        """Apply every layer."""
        for layer in self.layers:
            x = layer(x)
        return x


class TextTransformer(nn.Module):
    """Embeddings, layers, final norm; exists for the `text_model.` of the state-dict keys."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tokens, extra_rows: ExtraRows | None) -> Context:
        """Compute one vector per token."""
        out: Tensor = self.final_layer_norm(self.encoder(self.embeddings(tokens, extra_rows)))
        return out


class TextEncoder(nn.Module):
    """Turn token ids into the context of the cross-attention.

    Attention is causal and padding is not masked: the padded positions carry meaning in Stable Diffusion.

    Args:
        config: Shape of the encoder.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)
        self._initialise()

    def _initialise(self) -> None:
        """Draw the first weights as CLIP does: residual branches start small, the smaller the deeper."""
        width, embeddings = self.config.width, self.text_model.embeddings
        branch = width**-0.5 * (2 * self.config.layers) ** -0.5
        nn.init.normal_(embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.01)
        deviations = {"q_proj": width**-0.5, "k_proj": width**-0.5, "v_proj": width**-0.5, "out_proj": branch}
        deviations |= {"fc1": (2 * width) ** -0.5, "fc2": branch}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=deviations[name.rpartition(".")[2]])
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tokens, extra_rows: ExtraRows | None = None) -> TextFeatures:
        """Encode texts.

        Args:
            tokens: Token ids; ids from `vocab_size` on are rows of `extra_rows`.
            extra_rows: Vectors of placeholders, `(n, width)`. The token table itself stays untouched, so old
                words keep their meaning bit for bit while new rows learn ([gal2022] 3).

        Returns:
            Features per token and per text.

        Raises:
            ShapeError: A text is too long, an id has no row, or a row has no end token.
        """
        self._check(tokens, extra_rows)
        context = self.text_model(tokens, extra_rows)
        ends = tokens == self.config.eos_id
        if not bool(ends.any(dim=1).all()):
            row = int((~ends.any(dim=1)).nonzero()[0])
            raise ShapeError(f"Row {row} has no end token {self.config.eos_id}.", field="tokens")
        first_end = ends.int().argmax(dim=1)
        return TextFeatures(context, context[torch.arange(len(tokens), device=tokens.device), first_end])

    def _check(self, tokens: Tokens, extra_rows: ExtraRows | None) -> None:
        """Refuse ids and rows that do not fit the tables."""
        config = self.config
        if tokens.shape[1] > config.context_length:
            raise ShapeError(
                f"The texts have {tokens.shape[1]} tokens, the encoder takes {config.context_length}.",
                field="tokens",
                hint="Use the tokenizer that belongs to this encoder.",
            )
        if extra_rows is not None and extra_rows.shape[1] != config.width:
            raise ShapeError(
                f"The extra rows are {extra_rows.shape[1]} wide, the encoder needs {config.width}.",
                field="extra_rows",
                hint="The concept was made for another base model.",
            )
        extra = 0 if extra_rows is None else len(extra_rows)
        highest = int(tokens.max()) if tokens.numel() else 0
        if highest >= config.vocab_size + extra:
            raise ShapeError(
                f"Token id {highest} has no row: the vocabulary has {config.vocab_size} and there are "
                f"{extra} extra rows.",
                field="tokens",
                hint="Pass the rows of every placeholder as extra_rows.",
            )
