"""SAM's mask decoder for many prompts of a point or a box each on one image, rewritten around what the prompts share.

The decoder of segment_anything (Kirillov et al., "Segment Anything", ICCV 2023, appendix A) copies the image embedding
for every prompt and projects each of its tokens. What is computed here is the same function of the same weights; only
the order of the operations differs, so the results are equal but for rounding:

- Before the first layer the image tokens are the same for every prompt. Their projections are computed once per image.
- A prompt has 7 tokens, the image 4,096. In the attention between them, the projection of the image tokens is folded
  into the prompt's tokens: (x Wk) . q = x . (Wk q). So each image token is multiplied by one vector for each head and
  token of the prompt, and is never projected.
- The transposed convolutions that upsample have kernel 2 and stride 2: one matrix product makes 2x2 cells of a token.
- The last attention to the image is computed for the tokens only that predict what is asked for.
- The predicted IoUs are known before the masks are. So only prompts with a promising mask are upsampled, and only where
  the image lies, not its padding.

Shapes: N prompts, L tokens per prompt (1 for the IoU, 4 for masks, 2 for the point), T = h * w image tokens, C
channels, H heads of D channels, M masks per prompt. Names are those of segment_anything's `TwoWayTransformer`:
`queries` are the prompts' tokens, `keys` the image tokens, and `image_pe` is the encoding of their positions.
"""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.arrays import Size
from thfuse_sam.devices import upload
from thfuse_sam.products import apply_mlp, baddbmm_, bmm, is_gelu, linear
from thfuse_sam.sam.geometry import LOGIT_STRIDE, LOGITS_PER_TOKEN

_GROUP_GPU = 128  # prompts that are upsampled together; on a CPU one, because its cache holds no more


@dataclass(frozen=True)
class DecodedPrompts:
    """The M masks of each of N prompts, points or boxes.

    `logits` is a function that computes the logits of K of the N * M masks. It takes their indices, prompt * M + mask:
    int64 K, ascending, on the CPU. It returns float32 Kxrxc, at a fourth of the resolution of the encoder's input; rows
    and columns at the end that hold nothing but padding may be left out.
    """

    predicted_ious: Tensor  # NxM float32
    logits: Callable[[Tensor], Tensor]


class Decoder(Protocol):
    """A mask decoder as the generator uses it: `prepare` once per image, then `decode` some prompts at a time."""

    def prepare(self, features: Any, input_size: Size) -> Any:
        """Compute what `decode` needs to know of an image: its context.

        Args:
            features: image embedding, as the model's `encode` returned it.
            input_size: height and width of the image within the encoder's square input, in pixels.
        """

    def decode(self, context: Any, prompts: Tensor) -> DecodedPrompts:
        """Decode N points or N boxes, each of them a prompt of its own. A point has three masks, a box has one.

        Args:
            context: what `prepare` returned.
            prompts: points Nx2 (x, y) or boxes Nx4 (x0, y0, x1, y1) in pixels of the encoder's input, on the model's
                device.
        """


class ReferenceDecoder:
    """The model's own mask decoder, of any class.

    Args:
        dtype: number format of matrix products and convolutions.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype = torch.float32) -> None:
        self._sam = sam
        self._dtype = dtype

    def prepare(self, features: Tensor, input_size: Size) -> Tensor:
        return features

    def decode(self, context: Tensor, prompts: Tensor) -> DecodedPrompts:
        sparse, dense = _embed_prompts(self._sam, prompts)
        half = self._dtype != torch.float32
        with torch.autocast(prompts.device.type, dtype=self._dtype, enabled=half, cache_enabled=False):
            logits, predicted_ious = self._sam.mask_decoder(
                image_embeddings=context,
                image_pe=self._sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=prompts.shape[1] == 2,
            )
        masks = logits.float().flatten(0, 1)
        return DecodedPrompts(predicted_ious.float(), lambda indices: masks[upload(indices, masks.device)])


@dataclass(frozen=True)
class ImageContext:
    """What the decoder computes of an image once for all its prompts."""

    keys: Tensor  # TxC, the image tokens that the first layer gets
    image_pe: Tensor  # TxC, the encoding of their positions
    token_to_image_k: Tensor  # HxDxT, the projections of the first layer's attention from the prompt to the image
    token_to_image_v: Tensor  # HxTxD
    image_to_token_q: Tensor  # HxDxT, the scaled projection of the first layer's attention from the image to the prompt
    upsample: Callable[[Tensor], Tensor]  # NxtxC -> Nx16txC/8, see `_Upsampling`
    grid: tuple[int, int]  # h, w: rows and columns of image tokens
    unpadded: tuple[int, int]  # rows and columns of image tokens for which logits are computed


class PointDecoder:
    """The rewritten decoder. It reads the model's weights whenever an image is prepared and keeps none.

    Args:
        sam: a model for which `supports` returns True.
        dtype: number format of everything that has image tokens; the prompts' tokens are always float32.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype = torch.float32) -> None:
        self._sam = sam
        self._dtype = dtype
        self._run: Callable[[Any, Tensor, slice], Any] = self._decode
        self._run_upsampling: Callable[[Any, Tensor], Any] = _Upsampling.__call__

    def compiled(self) -> "PointDecoder":
        """This decoder with what takes the time compiled, for a GPU. It happens when it is used first."""
        decoder = copy.copy(self)
        decoder._run = _for_any_number(torch.compile(self._decode))
        decoder._run_upsampling = _for_any_number(torch.compile(_Upsampling.__call__))
        return decoder

    @staticmethod
    def supports(sam: Sam) -> bool:
        """Whether prompt encoder and mask decoder are segment_anything's own, of any size, with plain weights."""
        if type(sam.prompt_encoder) is not PromptEncoder or type(sam.mask_decoder) is not MaskDecoder:
            return False
        transformer = sam.mask_decoder.transformer
        if type(transformer) is not TwoWayTransformer:
            return False
        attentions = [module for module in transformer.modules() if hasattr(module, "k_proj")]
        # An adapter in place of a linear layer has other weights besides the one that is folded here.
        return (
            transformer.depth > 0
            and all(type(layer) is TwoWayAttentionBlock for layer in transformer.layers)
            and all(type(attention) is Attention for attention in attentions)
            and all(type(module) is nn.Linear for attention in attentions for module in attention.children())
        )

    def prepare(self, features: Tensor, input_size: Size, image_pe: Tensor | None = None) -> ImageContext:
        """As `Decoder.prepare`. `image_pe`: encoded positions of the tokens, 1xCxhxw; None: those of a whole input."""
        transformer = self._sam.mask_decoder.transformer
        height, width = features.shape[-2:]
        image_pe = _flatten(self._sam.prompt_encoder.get_dense_pe() if image_pe is None else image_pe)
        keys = _flatten(features.float()) + self._sam.prompt_encoder.no_mask_embed.weight
        keys_with_pe = keys + image_pe
        to_image = transformer.layers[0].cross_attn_token_to_image
        to_token = transformer.layers[0].cross_attn_image_to_token
        scaled_q = to_token.q_proj(keys_with_pe) * _scale(to_token)
        return ImageContext(
            keys=keys.to(self._dtype),
            image_pe=image_pe.to(self._dtype),
            token_to_image_k=_heads(to_image.k_proj(keys_with_pe), to_image).mT.contiguous().to(self._dtype),
            token_to_image_v=_heads(to_image.v_proj(keys), to_image).contiguous().to(self._dtype),
            image_to_token_q=_heads(scaled_q, to_token).mT.contiguous().to(self._dtype),
            upsample=functools.partial(self._run_upsampling, _Upsampling.of(self._sam.mask_decoder, self._dtype)),
            grid=(height, width),
            unpadded=(_tokens_of_logits(input_size[0], height), _tokens_of_logits(input_size[1], width)),
        )

    def decode(self, context: ImageContext, prompts: Tensor) -> DecodedPrompts:
        # The first mask is meant for unambiguous prompts, such as boxes; a single point is ambiguous and gets the three
        # others.
        masks = slice(1, None) if prompts.shape[1] == 2 else slice(1)
        sparse = _sparse_embeddings(self._sam.prompt_encoder, prompts)
        predicted_ious, hyper_in, keys = self._run(context, sparse, masks)
        return DecodedPrompts(predicted_ious.float(), functools.partial(_logits, context, keys, hyper_in))

    def decode_all(self, context: ImageContext, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """All masks of N prompts, the single one and the three, with gradients.

        Args:
            context: what `prepare` returned for an image, or a crop of one, without padding.
            sparse: sparse prompt embeddings, float32 NxKxC.

        Returns:
            logits float32 NxMx4hx4w and predicted IoUs float32 NxM.
        """
        predicted_ious, hyper_in, keys = self._run(context, sparse, slice(None))
        upsampled = context.upsample(keys)
        return _pixel_shuffle(upsampled @ hyper_in.to(upsampled.dtype).mT, *context.grid), predicted_ious

    def _decode(self, context: ImageContext, sparse: Tensor, masks: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Sparse prompt embeddings NxKxC -> predicted IoUs NxM, `hyper_in` NxMxC/8 of `masks`; image tokens NxTxC."""
        decoder = self._sam.mask_decoder
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(len(sparse), -1, -1), sparse.float()], dim=1)
        queries, keys = self._transform(context, tokens, masks)
        networks = enumerate(list(decoder.output_hypernetworks_mlps)[masks], start=1)
        hyper_in = torch.stack([network(queries[:, index]) for index, network in networks], dim=1)
        return decoder.iou_prediction_head(queries[:, 0])[:, masks], hyper_in, keys

    def _transform(self, context: ImageContext, tokens: Tensor, masks: slice) -> tuple[Tensor, Tensor]:
        """The two-way transformer: the prompts' tokens NxLxC -> queries Nx(1+M)xC float32, those of the IoUs and of the
        `masks`, and keys NxTxC.
        """
        transformer = self._sam.mask_decoder.transformer
        queries = tokens
        keys = keys_with_pe = torch.empty(0)  # set by the first layer, which reads the context's
        for index, layer in enumerate(transformer.layers):
            first = index == 0
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(queries, queries, queries)
            else:
                queries_with_pe = queries + tokens
                queries = queries + layer.self_attn(queries_with_pe, queries_with_pe, queries)
            queries = layer.norm1(queries)

            to_image = layer.cross_attn_token_to_image
            if first:
                attended = _attend_to_context(to_image, queries + tokens, context)
            else:
                attended = _attend_to_image(to_image, queries + tokens, keys, keys_with_pe)
            queries = layer.norm2(queries + attended)
            queries = layer.norm3(queries + apply_mlp(layer.mlp, queries))

            to_token = layer.cross_attn_image_to_token
            k = _heads(to_token.k_proj(queries + tokens), to_token)
            weights = _weights_of_context(context, k) if first else _weights_of_image(to_token, keys_with_pe, k)
            del keys_with_pe  # the normalised tokens get its memory
            keys = _attend_to_tokens(to_token, context.keys if first else keys, weights, queries, keeps_keys=first)
            keys, keys_with_pe = _normalised(keys, layer.norm4, context.image_pe)
        final = transformer.final_attn_token_to_image
        mask_tokens = slice(1, 1 + self._sam.mask_decoder.num_mask_tokens)
        queries, tokens = (torch.cat([x[:, :1], x[:, mask_tokens][:, masks]], dim=1) for x in (queries, tokens))
        attended = _attend_to_image(final, queries + tokens, keys, keys_with_pe)
        return transformer.norm_final_attn(queries + attended), keys


def _for_any_number(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function that is not compiled again when the first dimension of its second argument changes."""

    def run(of: Any, batch: Tensor, *others: Any) -> Any:
        torch._dynamo.maybe_mark_dynamic(batch, 0)
        return compiled(of, batch, *others)

    return run


@dataclass(frozen=True)
class _Upsampling:
    """`MaskDecoder.output_upscaling`, channels last."""

    first_weight: Tensor  # (4 * C/4)xC; the outputs are ordered by row, column, channel
    first_bias: Tensor  # 4 * C/4
    norm: LayerNorm2d
    first_activation: nn.Module
    second_weight: Tensor  # (4 * C/8)x(C/4)
    second_bias: Tensor  # 4 * C/8
    second_activation: nn.Module

    @classmethod
    def of(cls, decoder: MaskDecoder, dtype: torch.dtype) -> "_Upsampling":
        first, norm, first_activation, second, second_activation = decoder.output_upscaling
        return cls(*_as_linear(first, dtype), norm, first_activation, *_as_linear(second, dtype), second_activation)

    def __call__(self, keys: Tensor) -> Tensor:
        """Image tokens NxtxC -> Nx16txC/8, ordered by token, by its 2x2 cells, and by the 2x2 logits of each cell."""
        x = linear(keys, self.first_weight, self.first_bias)
        x = x.view(len(keys), 4 * keys.shape[1], -1)
        x = self.first_activation(_layer_norm(x, self.norm))
        fused = is_gelu(self.second_activation)
        x = linear(x, self.second_weight, self.second_bias, gelu=fused)
        x = x if fused else self.second_activation(x)
        return x.view(len(keys), LOGITS_PER_TOKEN**2 * keys.shape[1], -1)


def _logits(context: ImageContext, keys: Tensor, hyper_in: Tensor, indices: Tensor) -> Tensor:
    """The logits of some masks of N prompts, as `DecodedPrompts.logits` returns them.

    Args:
        keys: image tokens of each prompt, NxTxC.
        hyper_in: weights of the upsampled channels in each mask, NxMxC/8.
        indices: which masks: int64 K, prompt * M + mask, ascending, on the CPU.
    """
    rows, columns = context.unpadded
    masks = hyper_in.shape[1]
    logits = keys.new_empty((len(indices), LOGITS_PER_TOKEN * rows, LOGITS_PER_TOKEN * columns), dtype=torch.float32)
    unpadded = keys.unflatten(1, context.grid)[:, :rows, :columns]
    on_cpu = keys.device.type == "cpu"
    prompts, prompt_of_mask = (indices // masks).unique(return_inverse=True)
    first = 0  # of `indices`: the masks of a group lie side by side
    group = 1 if on_cpu else _GROUP_GPU
    for start in range(0, len(prompts), group):
        chosen = prompts[start : start + group]
        of_group = slice(first, first := first + int((prompt_of_mask[first:] < start + group).sum()))
        position = (prompt_of_mask[of_group] - start) * masks + indices[of_group] % masks
        if on_cpu:
            part = slice(int(chosen), int(chosen) + 1)  # without a copy
            tokens, weights = unpadded[part], hyper_in[part]
        else:
            chosen, position = upload(chosen, keys.device), upload(position, keys.device)
            tokens, weights = unpadded[chosen], hyper_in[chosen]
        upsampled = context.upsample(tokens.flatten(1, 2))
        weights = weights.to(upsampled.dtype)
        if on_cpu:
            logits[of_group] = _pixel_shuffle(upsampled @ weights.mT, rows, columns).flatten(0, 1)[position]
        else:
            # The same product with long rows: a GPU has no fast kernel for rows of three numbers.
            chosen_masks = (weights @ upsampled.mT).flatten(0, 1)[position]
            logits[of_group] = _pixel_shuffle(chosen_masks.unsqueeze(-1), rows, columns).flatten(0, 1)
    return logits


def _attend_to_context(attention: Attention, queries: Tensor, context: ImageContext) -> Tensor:
    """Attention of the prompts' tokens (NxLxC) to the image tokens that all prompts share: NxLxC."""
    count, length, _ = queries.shape
    # HxNLxD: all prompts in one product.
    q = _heads((attention.q_proj(queries) * _scale(attention)).flatten(0, 1), attention)
    weights = torch.softmax(q.to(context.token_to_image_k.dtype) @ context.token_to_image_k, dim=-1)
    attended = (weights @ context.token_to_image_v).float()
    return attention.out_proj(attended.transpose(0, 1).reshape(count, length, -1))


def _attend_to_image(attention: Attention, queries: Tensor, keys: Tensor, keys_with_pe: Tensor) -> Tensor:
    """Attention of the prompts' tokens (NxLxC) to each prompt's own image tokens (NxTxC): NxLxC."""
    count, length, channels = queries.shape
    heads = attention.num_heads
    q = _heads(attention.q_proj(queries) * _scale(attention), attention)
    # The bias of the keys adds the same to all scores of a token, which changes nothing in the softmax.
    folded = _per_head(q, attention.k_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)
    weights = torch.softmax(bmm(folded.to(keys.dtype), keys_with_pe.mT), dim=-1)
    mixed = bmm(weights, keys).float().view(count, heads, length, channels)
    # The weights sum to one, so the bias of the values is added as it is.
    v_weights = attention.v_proj.weight.unflatten(0, (heads, -1)).mT
    v = _per_head(mixed, v_weights) + attention.v_proj.bias.view(heads, 1, -1)
    return attention.out_proj(v.transpose(1, 2).flatten(2))


def _weights_of_context(context: ImageContext, k: Tensor) -> Tensor:
    """Attention weights of the shared image tokens over each prompt's tokens (`k` NxHxLxD): NxHLxT."""
    count, heads, length, _ = k.shape
    scores = k.transpose(0, 1).flatten(1, 2).to(context.image_to_token_q.dtype) @ context.image_to_token_q
    weights = torch.softmax(scores.view(heads, count, length, -1), dim=2)
    return weights.transpose(0, 1).reshape(count, heads * length, -1)


def _weights_of_image(attention: Attention, keys_with_pe: Tensor, k: Tensor) -> Tensor:
    """Attention weights of each prompt's image tokens (NxTxC) over its own tokens (`k` NxHxLxD): NxHLxT."""
    count, heads, length, _ = k.shape
    k = k * _scale(attention)
    folded = _per_head(k, attention.q_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2).to(keys_with_pe.dtype)
    bias = _per_head(k, attention.q_proj.bias.view(heads, -1, 1)).flatten(1, 2).to(keys_with_pe.dtype)
    scores = bmm(folded, keys_with_pe.mT).add_(bias).view(count, heads, length, -1)
    # For so few tokens, a softmax over a dimension that is not the last one is many times as fast.
    return torch.softmax(scores, dim=2).flatten(1, 2)


def _attend_to_tokens(
    attention: Attention, keys: Tensor, weights: Tensor, queries: Tensor, *, keeps_keys: bool
) -> Tensor:
    """Image tokens (TxC or NxTxC) plus their attention to the prompts' tokens by `weights` NxHLxT: NxTxC.

    Unless it `keeps_keys`, or gradients are computed, the result takes the place of `keys`.
    """
    heads = attention.num_heads
    v = _heads(attention.v_proj(queries), attention)
    folded = _per_head(v, attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0))
    # For each image token the weights of a head sum to one, so the bias can be added to the values of any one head.
    folded[:, 0] += attention.out_proj.bias
    values = folded.flatten(1, 2).to(weights.dtype)
    if torch.compiler.is_compiling():  # the sum becomes a part of the layer norm that follows, and costs nothing
        return keys + weights.mT @ values
    if torch.is_grad_enabled():
        return torch.baddbmm(keys, weights.mT, values)
    if keeps_keys:
        keys = keys.repeat(len(weights), 1, 1)
    return baddbmm_(keys, weights.mT, values)


def _normalised(keys: Tensor, norm: nn.Module, image_pe: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised image tokens NxTxC, and with the encoding of their positions (TxC).

    Unless gradients are computed, the latter take the place of `keys`: to get memory anew takes a tenth of the time.
    """
    normalised = _layer_norm(keys, norm)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return normalised, normalised + image_pe
    return normalised, torch.add(normalised, image_pe, out=keys)


def _sparse_embeddings(encoder: PromptEncoder, prompts: Tensor) -> Tensor:
    """What `PromptEncoder` makes of N prompts, each one foreground point (Nx2) or one box (Nx4): Nx2xC.

    A box has a token for each of two corners, a point one and the padding where a box could be. The encoder itself
    picks tokens by their labels, for which a GPU would have to wait six times.
    """
    positions = encoder.pe_layer.forward_with_coords(prompts.view(len(prompts), -1, 2) + 0.5, encoder.input_image_size)
    if positions.shape[1] == 2:
        return positions + torch.stack([encoder.point_embeddings[index].weight[0] for index in (2, 3)])
    padding = encoder.not_a_point_embed.weight.expand(len(prompts), 1, -1)
    return torch.cat([positions + encoder.point_embeddings[1].weight, padding], dim=1)


def _embed_prompts(sam: Sam, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Sparse and dense prompt embeddings of N prompts, each one foreground point (Nx2) or one box (Nx4)."""
    if prompts.shape[1] == 4:
        sparse, dense = sam.prompt_encoder(points=None, boxes=prompts, masks=None)
    else:
        labels = torch.ones((len(prompts), 1), dtype=torch.int, device=prompts.device)
        sparse, dense = sam.prompt_encoder(points=(prompts[:, None], labels), boxes=None, masks=None)
    return sparse, dense


def _flatten(features: Tensor) -> Tensor:
    """1xCxhxw -> TxC."""
    return features[0].flatten(1).T.contiguous()


def _heads(x: Tensor, attention: Attention) -> Tensor:
    """...xLx(H*D) -> ...xHxLxD."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(-3, -2)


def _per_head(x: Tensor, weights: Tensor) -> Tensor:
    """The product of each head of x NxHxLxD with its own weight HxDxC: NxHxLxC."""
    return torch.einsum("nhld,hdc->nhlc", x, weights)  # a plain product would copy the weights N times


def _scale(attention: Attention) -> float:
    """The factor of the attention's scores, 1 / sqrt(D)."""
    return 1 / math.sqrt(attention.internal_dim // attention.num_heads)


def _layer_norm(x: Tensor, norm: Any) -> Tensor:
    """Normalise over the last dimension, with the weights of a LayerNorm or LayerNorm2d."""
    return F.layer_norm(x, norm.weight.shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _as_linear(convolution: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight (4*out)xin and bias of the linear layer equal to a transposed convolution of kernel 2 and stride 2.

    Its outputs are ordered by row, column and channel.
    """
    inputs, outputs, height, width = convolution.weight.shape
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(height * width * outputs, inputs)
    return weight.to(dtype), convolution.bias.repeat(height * width).to(dtype)


def _tokens_of_logits(pixels: int, tokens: int) -> int:
    """How many of the tokens along one side the upsampled logits of the first `pixels` of the input depend on."""
    logit = (pixels - 0.5) / LOGIT_STRIDE - 0.5  # where the last pixel's centre falls between the logits
    return min(tokens, (math.floor(logit) + 1) // LOGITS_PER_TOKEN + 1)


def _pixel_shuffle(x: Tensor, rows: int, columns: int) -> Tensor:
    """Logits Nx16txM in the order of `_Upsampling`, of t = rows * columns tokens -> float32 NxMx4*rowsx4*columns."""
    count, _, masks = x.shape
    order = _pixel_order(rows, columns, masks, x.device)
    shuffled = x.float().flatten(1).index_select(1, order)
    return shuffled.view(count, masks, LOGITS_PER_TOKEN * rows, LOGITS_PER_TOKEN * columns)


@functools.lru_cache(maxsize=8)
def _pixel_order(rows: int, columns: int, masks: int, device: torch.device) -> Tensor:
    """Where each logit lies in the input of `_pixel_shuffle`. Indexing is ten times as fast as permuting dimensions."""
    # Row and column of the token, of the 2x2 cell in the token, and of the logit in the cell.
    shape = rows, columns, 2, 2, 2, 2, masks
    return torch.arange(math.prod(shape), device=device).view(shape).permute(6, 0, 2, 4, 1, 3, 5).flatten()
