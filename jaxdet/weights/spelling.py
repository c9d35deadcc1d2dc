"""What systems call tensors, beside the names of the 2018 toolbox, and what names tell."""

import re
from collections.abc import Callable, Collection, Mapping

_Rules = Mapping[str, str | Callable[[re.Match], str]]  # patterns, and what replaces them


def detector_of(names: Collection[str]) -> tuple[str, bool]:
    """Returns the kind of detector that has tensors of these names, '' if none is known.

    And whether it is of torchvision's second version.
    """
    has = {part for part, sign in _PARTS.items() if any(map(sign.match, names))}
    kind = next((kind for kind, parts in _KINDS.items() if parts <= has), "")
    return kind, "version 2" in has


def spelled(rules: _Rules, of_retinanet: _Rules | None = None) -> Callable[..., str]:
    """Returns a function that applies each rule, a pattern and what replaces it, to a name.

    Those of RetinaNet, which numbers its pyramid otherwise, come first where it is one.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules.items()]
    first = [(re.compile(pattern), text) for pattern, text in (of_retinanet or {}).items()]

    def spell(name: str, retinanet: bool = False) -> str:
        for pattern, replacement in (*(first if retinanet else ()), *compiled):
            name = pattern.sub(replacement, name)
        return name

    return spell


MMDET3_HEAD = "bbox_head.rpn_"
HEAD_2 = "rpn.head.conv.1.0.weight"  # in torchvision's version 2 alone
DETECTRON2_HEAD = "proposal_generator.rpn_head"
SECOND_STAGE = re.compile(r"^((?:shared|bbox|mask)_head\.)")
# What a name of each part of a detector begins with, in any system.
_PARTS = {
    "rpn": re.compile(r"(bbox_head\.)?rpn_|rpn\.head\.|proposal_generator\.rpn_"),
    "box": re.compile(r"(roi_head\.)?bbox_head\.fc_cls\.|roi_heads\.box_predictor\."),
    "mask": re.compile(r"(roi_head\.)?mask_head\.conv_log|roi_heads\.mask_(predictor|head\.pred)"),
    "retina": re.compile(r"bbox_head\.retina_cls\.|head\.cls_score\.|head\.classification_head\."),
    "version 2": re.compile(rf"{re.escape(HEAD_2)}|head\.classification_head\.conv\.0\.1\."),
}
_KINDS = {
    "retinanet": {"retina"},
    "mask_rcnn": {"rpn", "box", "mask"},
    "faster_rcnn": {"rpn", "box"},
    "fast_mask_rcnn": {"box", "mask"},
    "fast_rcnn": {"box"},
    "rpn": {"rpn"},
}
# Of mmdet's files.  RetinaNet's convolutions had no scope of their own before May 2019.
AS_2018 = spelled(
    {
        f"^{re.escape(MMDET3_HEAD)}": "rpn_head.rpn_",
        r"^roi_head\.": "",
        r"^(bbox_head\.(?:cls|reg)_convs\.\d)\.(weight|bias)$": r"\1.conv.\2",
    }
)
# As torchvision itself renames what it wrote before 0.13.
TORCHVISION_OLD = spelled(
    {
        r"^rpn\.head\.conv\.(weight|bias)$": r"rpn.head.conv.0.0.\1",
        r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",
        r"^(roi_heads\.mask_head)\.mask_fcn(\d)\.": lambda m: f"{m[1]}.{int(m[2]) - 1}.0.",
        r"^(head\.\w+\.conv)\.(\d)\.(?=weight|bias)": lambda m: f"{m[1]}.{int(m[2]) // 2}.0.",
        # and where this page has one name for two
        r"^(head\.\w+\.conv\.\d)\.1\.bias$": r"\1.0.bias",
        r"^roi_heads\.box_head\.5\.": "roi_heads.box_head.fc6.",
    }
)
TORCHVISION_2 = spelled({r"^roi_heads\.box_head\.fc6\.": "roi_heads.box_head.5."})
DETECTRON2_OLD = spelled({r"^backbone\.bottom_up\.": "backbone."})
DETECTRON2 = spelled(
    {
        r"^backbone\.(conv1|bn1)\.": r"backbone.stem.\1.",
        r"^backbone\.layer(\d)\.": lambda m: f"backbone.res{int(m[1]) + 1}.",
        r"\.downsample\.0\.": ".shortcut.",
        r"\.downsample\.1\.": ".shortcut.norm.",
        r"\.bn(\d)\.": r".conv\1.norm.",
        r"^neck\.lateral_convs\.(\d)\.conv": lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}",
        r"^neck\.fpn_convs\.(\d)\.conv": lambda m: f"backbone.fpn_output{int(m[1]) + 2}",
        r"^rpn_head\.rpn_conv\.": f"{DETECTRON2_HEAD}.conv.",
        r"^rpn_head\.rpn_cls\.": f"{DETECTRON2_HEAD}.objectness_logits.",
        r"^rpn_head\.rpn_reg\.": f"{DETECTRON2_HEAD}.anchor_deltas.",
        r"^shared_head\.layer4\.": "roi_heads.res5.",
        r"^bbox_head\.shared_fcs\.(\d)\.": lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}.",
        r"^bbox_head\.fc_cls\.": "roi_heads.box_predictor.cls_score.",
        r"^bbox_head\.fc_reg\.": "roi_heads.box_predictor.bbox_pred.",
        r"^mask_head\.convs\.(\d)\.conv": lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}",
        r"^mask_head\.upsample\.": "roi_heads.mask_head.deconv.",
        r"^mask_head\.conv_logits\.": "roi_heads.mask_head.predictor.",
        r"^bbox_head\.cls_convs\.(\d)\.conv": lambda m: f"head.cls_subnet.{2 * int(m[1])}",
        r"^bbox_head\.reg_convs\.(\d)\.conv": lambda m: f"head.bbox_subnet.{2 * int(m[1])}",
        r"^bbox_head\.retina_cls\.": "head.cls_score.",
        r"^bbox_head\.retina_reg\.": "head.bbox_pred.",
    },
    {
        r"^neck\.lateral_convs\.(\d)\.conv": lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}",
        r"^neck\.fpn_convs\.([0-2])\.conv": lambda m: f"backbone.fpn_output{int(m[1]) + 3}",
        r"^neck\.fpn_convs\.(\d)\.conv": lambda m: f"backbone.top_block.p{int(m[1]) + 3}",
    },
)
TORCHVISION = spelled(
    {
        r"^backbone\.(?!fpn)": "backbone.body.",
        r"^neck\.lateral_convs\.(\d)\.conv": r"backbone.fpn.inner_blocks.\1.0",
        r"^neck\.fpn_convs\.(\d)\.conv": r"backbone.fpn.layer_blocks.\1.0",
        r"^rpn_head\.rpn_conv\.": "rpn.head.conv.0.0.",
        r"^rpn_head\.rpn_conv_(\d)\.": r"rpn.head.conv.\1.0.",
        r"^rpn_head\.rpn_cls\.": "rpn.head.cls_logits.",
        r"^rpn_head\.rpn_reg\.": "rpn.head.bbox_pred.",
        r"^bbox_head\.convs\.(\d)\.conv": r"roi_heads.box_head.\1.0",
        r"^bbox_head\.shared_fcs\.(\d)\.": lambda m: f"roi_heads.box_head.fc{int(m[1]) + 6}.",
        r"^bbox_head\.fc_cls\.": "roi_heads.box_predictor.cls_score.",
        r"^bbox_head\.fc_reg\.": "roi_heads.box_predictor.bbox_pred.",
        r"^mask_head\.convs\.(\d)\.conv": r"roi_heads.mask_head.\1.0",
        r"^mask_head\.upsample\.": "roi_heads.mask_predictor.conv5_mask.",
        r"^mask_head\.conv_logits\.": "roi_heads.mask_predictor.mask_fcn_logits.",
        r"^bbox_head\.cls_convs\.(\d)\.conv": r"head.classification_head.conv.\1.0",
        r"^bbox_head\.cls_convs\.(\d)\.gn": r"head.classification_head.conv.\1.1",
        r"^bbox_head\.reg_convs\.(\d)\.conv": r"head.regression_head.conv.\1.0",
        r"^bbox_head\.reg_convs\.(\d)\.gn": r"head.regression_head.conv.\1.1",
        r"^bbox_head\.retina_cls\.": "head.classification_head.cls_logits.",
        r"^bbox_head\.retina_reg\.": "head.regression_head.bbox_reg.",
    },
    {r"^neck\.fpn_convs\.([34])\.conv": lambda m: f"backbone.fpn.extra_blocks.p{int(m[1]) + 3}"},
)
