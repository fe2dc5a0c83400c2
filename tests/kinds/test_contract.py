"""The contract that every kind keeps: labels, targets and results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from unified.canvas import Canvas
from unified.data.coco.captions import trained_on
from unified.kinds.captions import Caption, CaptionAsk, Vocabulary
from unified.kinds.federated import FederatedAsk, FederatedSpace, Recognitions
from unified.kinds.keypoints import KeypointAsk, Keypoints, KeypointSpace
from unified.kinds.kind import Ask, Categories
from unified.kinds.masks import MaskAsk, Masks
from unified.kinds.objects import Detections, ObjectAsk, ObjectSpace
from unified.kinds.pixels import PixelAsk, PixelClasses
from unified.kinds.segments import PanopticSegments, SegmentAsk, SegmentSpace
from unified.kinds.tags import Tags
from unified.kinds.vectors import Vectors
from unified.rle import encode
from unified.view import View

ASKS = [ObjectAsk(), MaskAsk(stride=2), PixelAsk(stride=4), SegmentAsk(stride=4),
        KeypointAsk(joints=13), FederatedAsk(), CaptionAsk()]  # fmt: skip
SIZE = 64
SHRUNK = View(np.array([[0.5, 0, 3], [0, 0.5, 7]]), SIZE)
WORDS = Vocabulary(trained_on(iter(["a dog on a cat"] * 9), 300), 9)
SPACES = {
    "captions": WORDS,
    "objects": ObjectSpace((1, 2), ("dog", "cat")),
    "masks": ObjectSpace((1, 2), ("dog", "cat")),
    "pixels": Categories((1, 2), ("grass", "sky")),
    "federated": FederatedSpace((1, 2), ("dog", "cat"), ("f", "r")),
    "segments": SegmentSpace((1, 2), ("dog", "sky"), (True, False)),
    "keypoints": KeypointSpace(
        (1, 2),
        ("dog", "cat"),
        (("nose", "tail"), ("nose",)),
        (((0, 1),), ()),
        ((0, 1), (0,)),
        ((0.1, 0.1), (0.1,)),
    ),
}


@pytest.fixture(params=ASKS, ids=lambda ask: ask.kind)
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


@pytest.fixture
def seen(ask: Ask, shapes: Path, open_split: Callable) -> list:
    """What is in view of four images."""
    split = open_split(shapes, "train", ask.kind)
    return [split.label(ask.kind, index).seen(SHRUNK, ask) for index in range(4)]


@pytest.fixture
def figures(shapes: Path, open_split: Callable) -> KeypointSpace:
    return open_split(shapes, "train", "keypoints").sources["keypoints"].space


def test_rows_without_a_label_are_not_known(ask: Ask, seen: list) -> None:
    targets = ask.seen.batched([seen[0], None, seen[1]], ask, SIZE)
    assert targets.known.tolist() == [True, False, True]
    assert targets.shown(0) is not None
    nothing = ask.seen.batched([None, None], ask, SIZE)
    assert nothing.known.tolist() == [False, False]
    shapes = {f.name: getattr(targets, f.name).shape[1:] for f in fields(targets)}
    assert {f.name: getattr(nothing, f.name).shape[1:] for f in fields(nothing)} == shapes


def test_every_field_of_targets_is_a_tensor_and_moves(ask: Ask, seen: list) -> None:
    targets = ask.seen.batched(seen, ask, SIZE)
    moved = targets.map(lambda tensor: tensor.to("meta"))
    for f in fields(targets):
        assert isinstance(getattr(targets, f.name), torch.Tensor)
        assert getattr(moved, f.name).is_meta


def test_taken_rows_are_those_of_a_smaller_batch(ask: Ask, seen: list) -> None:
    whole = ask.seen.batched([seen[0], None, *seen[1:]], ask, SIZE)
    part = whole.take(torch.tensor([3, 1, 0]))
    alone = ask.seen.batched([seen[2], None, seen[0]], ask, SIZE)
    for f in fields(alone):
        assert torch.equal(getattr(part, f.name), getattr(alone, f.name)), f.name


def test_what_all_parts_know_the_whole_knows(ask: Ask, seen: list) -> None:
    whole = ask.seen.joined(seen[:2])
    assert ask.seen.batched([whole], ask, SIZE).known.tolist() == [True]


def test_asks_agree_whatever_the_view(ask: Ask) -> None:
    other = type(ask)(**{f.name: getattr(ask, f.name) for f in fields(ask)} | {"view": "weak"})
    assert ask.agrees(other)


def test_what_is_known_can_be_shown(ask: Ask, seen: list, figures: KeypointSpace) -> None:
    targets = ask.seen.batched(seen, ask, SIZE)
    canvas = Canvas(np.full((SIZE, SIZE, 3), 128, np.uint8))
    named = Categories(tuple(range(60)), tuple(f"class {i}" for i in range(60)))
    spaces = dict.fromkeys(SPACES, named) | {"keypoints": figures, "captions": WORDS}
    for row in range(len(seen)):
        targets.shown(row).of(spaces).draw(canvas)
    assert (canvas.picture() != 128).any()


def square() -> np.ndarray:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:25, 10:50] = 1
    return mask


RESULTS = [
    Detections(torch.tensor([[1.0, 2, 30, 39], [0, 0, 9, 9]]), torch.tensor([0.9, 0.2]),
               torch.tensor([1, 0])),
    Masks(torch.zeros(2, 4), torch.tensor([0.9, 0.2]), torch.tensor([1, 0]),
          [encode(square()), encode(1 - square())]),
    Recognitions(torch.tensor([[1.0, 2, 30, 39], [0, 0, 9, 9]]), torch.tensor([0.9, 0.2]),
                 torch.tensor([1, 0])),
    Tags(torch.tensor([0.9, 0.2])),
    PixelClasses(torch.from_numpy(square())),
    PanopticSegments(torch.from_numpy(square().astype(np.int32)) + 1, torch.tensor([1, 0]),
                     torch.tensor([0.9, 0.2])),
    Vectors(torch.eye(2), torch.tensor([0.9, 0.2]), torch.zeros(0, 2), torch.zeros(0).long()),
    Keypoints(torch.tensor([0.9, 0.2]), torch.tensor([0, 1]),
              torch.tensor([[[5.0, 5, 0.9], [30, 30, 0.8]], [[9, 9, 0.9], [0, 0, 0]]]),
              torch.tensor([0.7, 0.3])),
    Caption(torch.from_numpy(WORDS.encode(["A cat, on a dog."])[0].astype(np.int64))),
]  # fmt: skip


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_results_become_json_and_pictures(result) -> None:
    result = result.of(SPACES)
    plain = result.plain()
    assert json.loads(json.dumps(plain)) == plain
    assert plain
    canvas = Canvas(np.full((40, 60, 3), 128, np.uint8))
    result.draw(canvas)
    drawn = canvas.picture()
    assert drawn.shape[0] >= 80
    assert drawn.shape[1] == 120
    assert (drawn[:80] != 128).any() == (result.panel is not None and not canvas.lines)


def test_a_pose_says_its_score_and_its_quality() -> None:
    (result,) = (r for r in RESULTS if isinstance(r, Keypoints))
    rows = result.of(SPACES).plain()
    assert [(row["score"], row["quality"]) for row in rows] == [(0.9, 0.7), (0.2, 0.3)]
    assert [row["quality"] for row in result.of(SPACES).above(0.5).plain()] == [0.7]


@pytest.mark.parametrize("index", [0, 1, 2, 5, 6, 7])
def test_results_of_objects_leave_out_what_scores_less(index: int) -> None:
    """Each by its own scores: the boxes of one task do not cut the masks of another."""
    result = RESULTS[index].of(SPACES)
    assert [len(result.above(least).plain()) for least in (0.0, 0.5, 0.95)] == [2, 1, 0]
    assert result.above(0.5).plain() == result.plain()[:1]


def test_segments_that_are_left_keep_their_pixels() -> None:
    """Rows are counted anew: the second segment becomes the first."""
    pixels = torch.tensor([[0, 1, 2, 2, 3]], dtype=torch.int32)
    result = PanopticSegments(pixels, torch.tensor([0, 1, 0]), torch.tensor([0.2, 0.9, 0.7]))
    above = result.of(SPACES).above(0.5)
    assert above.segments.tolist() == [[0, 0, 1, 1, 2]]
    assert above.names == [SPACES["segments"].names[k] for k in (1, 0)]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_spaces_survive_a_trip_through_json(space: Categories) -> None:
    again = type(space).from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert space.differs(again) is None
    if isinstance(space, Categories):
        other = type(space).from_dict(space.to_dict() | {"names": ["bird", space.names[1]]})
        assert "bird" in space.differs(other)
    else:
        assert space.differs(type(space).from_dict(space.to_dict() | {"longest": 8}))
