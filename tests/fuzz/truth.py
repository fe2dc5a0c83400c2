"""What is true must score one, whatever the ids: the check of data that is accepted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from unified.bounds import checked
from unified.data.config import DataConfig
from unified.data.sources import Folders
from unified.data.split import Split
from unified.metrics.captioning import CaptionScores
from unified.metrics.coco_ap import CocoAP, CocoMaskAP
from unified.metrics.keypoint_ap import CocoKeypointAP
from unified.metrics.lvis_ap import LvisAP
from unified.metrics.panoptic import PanopticQuality
from unified.metrics.semantic import SemanticScores
from unified.view import ImageMeta

METRICS: dict[str, Any] = {
    "objects": (CocoAP, "AP"),
    "masks": (CocoMaskAP, "AP"),
    "keypoints": (CocoKeypointAP, "AP"),
    "federated": (LvisAP, "AP"),
    "captions": (partial(CaptionScores, java=False), "ROUGE-L"),
    "pixels": (partial(SemanticScores, file="stuff"), "mIoU"),
    "segments": (PanopticQuality, "PQ"),
}
IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def scores_of_truth(
    root: Path, split: str = "val", kinds: Iterable[str] = tuple(METRICS)
) -> str | None:
    """Which metric does not say one of the annotations themselves; None where all do."""
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        data = compose("config", overrides=["data=coco", f"data.root='{root}'"]).data
    sources = Folders(checked("data", OmegaConf.to_container(data), DataConfig), split)
    images = Split(sources, kinds)
    for kind in kinds:
        metric_of, primary = METRICS[kind]
        metric = metric_of(images.sources[kind])
        for index in range(len(images)):
            result = images.result(kind, index)
            if result is not None:
                place = int(images.images.ids[index]), "", *images.images.size(index), IDENTITY
                metric.update([result], [ImageMeta(*place)])
        score = metric.compute()[primary]
        if not (math.isnan(score) or abs(score - 1) < 1e-9):
            return f"the truth of {kind} scores {score}"
    return None
