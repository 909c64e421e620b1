"""Names that other projects give to the tensors of models here (Swin: docs/parity/mask2former.md, "Swin").

`prefix`: "backbone." or, under a pyramid, "backbone.bottom_up."; `compatibility.bottom_up_prefix` decides which.
"""

from collections.abc import Iterable

from adet_iuq.checkpoint.compatibility import CLASSIFIER
from adet_iuq.checkpoint.renaming import NameTable, Rule
from adet_iuq.errors import UserError

# Buffers that are made from the config, wherever they are.
_MADE_ANEW = (r".*relative_position_index$", r".*attn_mask$", r".*num_batches_tracked$")
_CLASSIFIER = (r"(fc|head|norm|classifier|pre_logits)\.", *_MADE_ANEW)


def swin_table(prefix: str) -> NameTable:
    """Names of the ImageNet classifiers that Swin's authors publish; they have no output norms but a classifier's head."""
    parts = ("patch_embed.{rest}", "layers.{rest}", "absolute_pos_embed")
    rules = [Rule(prefix + part, (part,)) for part in parts]
    return NameTable(rules, ignored=_CLASSIFIER, ours_only=_beside_bottom_up(prefix))


def timm_table(prefix: str, model_names: Iterable[str]) -> NameTable:
    """timm's names for the bottom-up network of this model: Swin, detectron2's ResNet, or the bridge to timm.

    Raises:
        UserError: the network is none of them.
    """
    names = [name.removeprefix(prefix) for name in model_names if name.startswith(prefix)]
    if any(name.startswith("model.") for name in names):
        # In `features_only` models the first dot of a level's name is "_".
        levels = [
            (f"{part}_{{i}}.{{rest}}", f"{part}.{{i}}.{{rest}}") for part in ("stem", "stages", "layers", "blocks")
        ]
        rules = [Rule(f"{prefix}model.{ours}", (theirs,)) for ours, theirs in levels if _has(names, ours)]
        rules.append(Rule(prefix + "model.{rest}", ("{rest}",)))
        # Without names that the network itself uses for another layer, such as the second norm of Xception's stem.
        heads = sorted(part for part in CLASSIFIER if not any(n.startswith(f"model.{part}.") for n in names))
        ignored = (rf"({'|'.join(heads)})\.", *_MADE_ANEW)
        return NameTable(rules, ignored=ignored, ours_only=_beside_bottom_up(prefix))
    if any(name.startswith("patch_embed.") for name in names):
        return NameTable(_timm_swin_rules(prefix), ignored=_CLASSIFIER, ours_only=_beside_bottom_up(prefix))
    if any(name.startswith("stem.conv1.") for name in names):
        return NameTable(_timm_resnet_rules(prefix), ignored=_CLASSIFIER, ours_only=_beside_bottom_up(prefix))
    raise UserError(f"The backbone of this model ({', '.join(names[:3])}, ...) has no counterpart in timm.")


def _has(names: list[str], template: str) -> bool:
    return any(name.startswith("model." + template.split("{")[0]) for name in names)


def _beside_bottom_up(prefix: str) -> tuple[str, ...]:
    """Patterns of our names without a counterpart: output norms, and everything outside of the bottom-up network."""
    return (rf"(?!{prefix})", rf"{prefix}norm\d\.", *_MADE_ANEW)


def _timm_swin_rules(prefix: str) -> list[Rule]:
    rules = [Rule(prefix + "patch_embed.{rest}", ("patch_embed.{rest}",))]
    # timm merges patches at the start of a level, the published code at the end of the level before.
    for separator in (".", "_"):
        for level in range(3):
            step = f"layers{separator}{level + 1}.downsample.{{rest}}"
            rules.append(Rule(f"{prefix}layers.{level}.downsample.{{rest}}", (step,)))
        rules.append(Rule(prefix + "layers.{i}.blocks.{rest}", (f"layers{separator}{{i}}.blocks.{{rest}}",)))
    return rules


def _timm_resnet_rules(prefix: str) -> list[Rule]:
    """detectron2's ResNets are timm's resnet* with other names (MODEL.RESNETS.STRIDE_IN_1X1 False)."""
    rules = [
        Rule(prefix + "stem.conv1.weight", ("conv1.weight",)),
        Rule(prefix + "stem.conv1.norm.{rest}", ("bn1.{rest}",)),
    ]
    for level in range(1, 5):
        ours, theirs = f"{prefix}res{level + 1}.{{i}}.", f"layer{level}.{{i}}."
        rules.append(Rule(ours + "shortcut.weight", (theirs + "downsample.0.weight",)))
        rules.append(Rule(ours + "shortcut.norm.{rest}", (theirs + "downsample.1.{rest}",)))
        rules.append(Rule(ours + "conv{j}.weight", (theirs + "conv{j}.weight",)))
        rules.append(Rule(ours + "conv{j}.norm.{rest}", (theirs + "bn{j}.{rest}",)))
    return rules


# Mask2Former in Hugging Face's transformers, as its files name the tensors

_HF_BACKBONE = "model.pixel_level_module.encoder."
# Later versions have a norm behind Swin, under either name, which Mask2Former never uses; the published files lack it.
_HF_UNUSED_NORM = rf"{_HF_BACKBONE}(swin\.)?layernorm\."


def hf_mask2former_table(prefix: str) -> NameTable:
    """Names of a whole Mask2Former with Swin."""
    rules = _hf_swin_rules(prefix) + _hf_pixel_decoder_rules() + _hf_predictor_rules()
    return NameTable(rules, ignored=(_HF_UNUSED_NORM, *_MADE_ANEW), ours_only=_MADE_ANEW)


def _hf_swin_rules(prefix: str) -> list[Rule]:
    ours, theirs = prefix + "layers.{i}.blocks.{j}.", _HF_BACKBONE + "encoder.layers.{i}.blocks.{j}."
    attention = theirs + "attention.self."
    rules = [
        Rule(prefix + "patch_embed.proj.{p}", (_HF_BACKBONE + "embeddings.patch_embeddings.projection.{p}",)),
        Rule(prefix + "patch_embed.norm.{p}", (_HF_BACKBONE + "embeddings.norm.{p}",)),
        Rule(prefix + "layers.{i}.downsample.{rest}", (_HF_BACKBONE + "encoder.layers.{i}.downsample.{rest}",)),
        Rule(ours + "attn.qkv.{p}", tuple(f"{attention}{part}.{{p}}" for part in ("query", "key", "value"))),
        Rule(ours + "attn.relative_position_bias_table", (attention + "relative_position_bias_table",)),
        Rule(ours + "attn.proj.{p}", (theirs + "attention.output.dense.{p}",)),
        Rule(ours + "norm1.{p}", (theirs + "layernorm_before.{p}",)),
        Rule(ours + "norm2.{p}", (theirs + "layernorm_after.{p}",)),
        Rule(ours + "mlp.fc1.{p}", (theirs + "intermediate.dense.{p}",)),
        Rule(ours + "mlp.fc2.{p}", (theirs + "output.dense.{p}",)),
    ]
    for level in range(4):
        rules.append(Rule(f"{prefix}norm{level}.{{p}}", (f"{_HF_BACKBONE}hidden_states_norms.stage{level + 1}.{{p}}",)))
    return rules


def _hf_pixel_decoder_rules() -> list[Rule]:
    ours, theirs = "sem_seg_head.pixel_decoder.", "model.pixel_level_module.decoder."
    layer, their_layer = ours + "transformer.encoder.layers.{i}.", theirs + "encoder.layers.{i}."
    rules = [
        Rule(ours + "input_proj.{i}.{j}.{p}", (theirs + "input_projections.{i}.{j}.{p}",)),
        Rule(ours + "transformer.level_embed", (theirs + "level_embed",)),
        Rule(layer + "self_attn.{rest}", (their_layer + "self_attn.{rest}",)),
        Rule(layer + "norm1.{p}", (their_layer + "self_attn_layer_norm.{p}",)),
        Rule(layer + "linear1.{p}", (their_layer + "fc1.{p}",)),
        Rule(layer + "linear2.{p}", (their_layer + "fc2.{p}",)),
        Rule(layer + "norm2.{p}", (their_layer + "final_layer_norm.{p}",)),
        Rule(ours + "mask_features.{p}", (theirs + "mask_projection.{p}",)),
    ]
    for name in ("adapter_1", "layer_1"):
        rules.append(Rule(f"{ours}{name}.weight", (f"{theirs}{name}.0.weight",)))
        rules.append(Rule(f"{ours}{name}.norm.{{p}}", (f"{theirs}{name}.1.{{p}}",)))
    return rules


def _hf_predictor_rules() -> list[Rule]:
    ours, theirs = "sem_seg_head.predictor.", "model.transformer_module."
    decoder, layer = theirs + "decoder.", theirs + "decoder.layers.{i}."
    cross, own, ffn = (
        ours + f"transformer_{kind}_layers.{{i}}." for kind in ("cross_attention", "self_attention", "ffn")
    )
    projections = [layer + f"self_attn.{part}_proj." for part in ("q", "k", "v")]
    return [
        Rule(ours + "query_feat.weight", (theirs + "queries_features.weight",)),
        Rule(ours + "query_embed.weight", (theirs + "queries_embedder.weight",)),
        Rule(ours + "level_embed.weight", (theirs + "level_embed.weight",)),
        Rule(ours + "decoder_norm.{p}", (decoder + "layernorm.{p}",)),
        Rule(cross + "multihead_attn.{rest}", (layer + "cross_attn.{rest}",)),
        Rule(cross + "norm.{p}", (layer + "cross_attn_layer_norm.{p}",)),
        Rule(own + "self_attn.in_proj_weight", tuple(name + "weight" for name in projections)),
        Rule(own + "self_attn.in_proj_bias", tuple(name + "bias" for name in projections)),
        Rule(own + "self_attn.out_proj.{p}", (layer + "self_attn.out_proj.{p}",)),
        Rule(own + "norm.{p}", (layer + "self_attn_layer_norm.{p}",)),
        Rule(ffn + "linear1.{p}", (layer + "fc1.{p}",)),
        Rule(ffn + "linear2.{p}", (layer + "fc2.{p}",)),
        Rule(ffn + "norm.{p}", (layer + "final_layer_norm.{p}",)),
        Rule(ours + "mask_embed.layers.{i}.{p}", (decoder + "mask_predictor.mask_embedder.{i}.0.{p}",)),
        Rule(ours + "class_embed.{p}", ("class_predictor.{p}",)),
        Rule("criterion.empty_weight", ("criterion.empty_weight",)),
    ]
