"""Both decoders in one module, under the name that detectron2 gives to what stands on a backbone."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from adet_iuq.errors import UserError
from adet_iuq.modeling.mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from adet_iuq.modeling.mask2former.transformer_decoder import MultiScaleMaskedTransformerDecoder, Prediction

# Keys of the published config that choose between parts. This project has one part for each key.
_ONLY = {
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
}


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """Pixel decoder and transformer decoder ("predictor").

    Args:
        pixel_decoder: makes the mask features and three maps.
        predictor: makes the predictions from these maps.
    """

    @configurable
    def __init__(
        self, *, pixel_decoder: MSDeformAttnPixelDecoder, predictor: MultiScaleMaskedTransformerDecoder
    ) -> None:
        super().__init__()
        self.pixel_decoder, self.predictor = pixel_decoder, predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """The constructor's arguments from MODEL.SEM_SEG_HEAD, for a backbone's maps `input_shape`.

        Raises:
            UserError: a value of these keys is unknown, or does not fit the others or the backbone.
        """
        for key, only in _ONLY.items():
            value: Any = cfg
            for part in key.split("."):
                value = value[part]
            if value != only:
                raise UserError(f'{key} is "{value}"; this project only has "{only}".')
        missing = [name for name in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES if name not in input_shape]
        if missing:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {missing}, but MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} offers "
                f"{list(input_shape)}. Mask2Former needs res2 to res5, such as build_resnet_backbone with "
                'MODEL.RESNETS.OUT_FEATURES ["res2", "res3", "res4", "res5"].'
            )
        return {
            "pixel_decoder": MSDeformAttnPixelDecoder(cfg, input_shape),
            "predictor": MultiScaleMaskedTransformerDecoder(cfg),
        }

    def forward(self, features: Mapping[str, Tensor]) -> tuple[list[Prediction], Tensor]:
        """All predictions in the order of the layers, and the mask features (B, D, h, w), from the backbone's features."""
        mask_features, maps = self.pixel_decoder(features)
        return self.predictor(maps, mask_features), mask_features
