"""Networks of libraries, by name, each for images of the smallest usual size."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from torch import Tensor, nn

from .research import images, sequences, vectors
from .research.row import Case

_TORCHVISION = {
    32: "vgg11 vgg16_bn resnet18 resnet50 resnext50_32x4d densenet121 squeezenet1_0 mobilenet_v2 shufflenet_v2_x0_5 "
    "shufflenet_v2_x1_0 mnasnet0_5 efficientnet_b0 efficientnet_v2_s regnet_x_400mf convnext_tiny",
    64: "alexnet googlenet swin_t",
    224: "vit_b_16 maxvit_t",
}
_SEGMENTATION = "fcn_resnet50 deeplabv3_resnet50 lraspp_mobilenet_v3_large"
_TIMM = {
    32: "resnet18 resnet18d resnet10t resnet26d resnetv2_50 vgg11 vgg11_bn test_resnet test_convnext test_efficientnet",
    64: "ecaresnet26t repvgg_a0 dla34 vovnet39a darknet53 cspresnet50 legacy_xception nfnet_f0 tresnet_m ghostnet_100 "
    "convmixer_768_32 mobileone_s0 efficientnet_lite0 mobilenetv2_050 mobilenetv4_conv_small fastvit_t8 gernet_s "
    "res2net50_26w_4s lcnet_050 spnasnet_100 mnasnet_100 edgenext_xx_small poolformer_s12 convnext_atto nasnetalarge "
    "convnextv2_atto densenet121 wide_resnet50_2 regnetx_002 inception_next_atto mobilevit_xxs coatnet_nano_rw_224 "
    "tf_efficientnet_b0 cs3darknet_s ese_vovnet19b_dw regnetz_005",
    96: "inception_v3",
    224: "mixer_s32_224 resmlp_12_224 convit_tiny levit_128s xcit_nano_12_p16_224 deit_tiny_patch16_224 gmixer_12_224 "
    "gmlp_ti16_224 visformer_tiny",
    256: "botnet26t_256 bat_resnext26ts",
}
_SMP = {
    "resnet18": "Unet UnetPlusPlus FPN PSPNet DeepLabV3 DeepLabV3Plus MAnet",
    "mobilenet_v2": "Unet",
    "efficientnet-b0": "Unet",
}


class Main(nn.Module):
    """The first of a segmentation network's outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)["out"]  # type: ignore[no-any-return]


def torchvision() -> list[Case]:
    """Classifiers, and segmentation networks as they are and with one output."""

    def built(name: str) -> nn.Module:
        module = importlib.import_module("torchvision.models")
        extra = {"init_weights": True} if name == "googlenet" else {}
        return getattr(module, name)(weights=None, **extra)  # type: ignore[no-any-return]

    def segmenting(name: str) -> nn.Module:
        module = importlib.import_module("torchvision.models.segmentation")
        return getattr(module, name)(weights=None, weights_backbone=None)  # type: ignore[no-any-return]

    found = [Case(name, (3, n, n), lambda name=name: built(name)) for n, name in _names(_TORCHVISION)]
    for name in _SEGMENTATION.split():
        found.append(Case(name, (3, 64, 64), lambda name=name: segmenting(name)))
        found.append(Case(f"{name}, its output", (3, 64, 64), lambda name=name: Main(segmenting(name))))
    return found


def timm() -> list[Case]:
    """Image classifiers."""

    def built(name: str) -> nn.Module:
        return importlib.import_module("timm").create_model(name, pretrained=False)  # type: ignore[no-any-return]

    return [Case(name, (3, n, n), lambda name=name: built(name)) for n, name in _names(_TIMM)]


def smp() -> list[Case]:
    """Of segmentation-models-pytorch."""

    def built(kind: str, encoder: str) -> nn.Module:
        module = importlib.import_module("segmentation_models_pytorch")
        return getattr(module, kind)(encoder, encoder_weights=None)  # type: ignore[no-any-return]

    pairs = [(kind, encoder) for encoder, kinds in _SMP.items() for kind in kinds.split()]
    return [Case(f"{k} of {e}", (3, 64, 64), lambda k=k, e=e: built(k, e)) for k, e in pairs]


def research() -> list[Case]:
    """Small networks."""
    return [*images.CASES, *vectors.CASES, *sequences.CASES]


LIBRARIES = {"torchvision": torchvision, "timm": timm, "smp": smp, "research": research}


def _names(by_size: Mapping[int, str]) -> list[tuple[int, str]]:
    return [(size, name) for size, names in by_size.items() for name in names.split()]
