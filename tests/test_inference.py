"""A trained network from Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unified.data.dataset import ViewDataset
from unified.errors import ConfigError, DataError
from unified.inference import Predictor
from unified.kinds.objects import ObjectAsk
from unified.view import PLAIN


@pytest.mark.parametrize("size", [64, 128, 640])
def test_a_file_gives_the_input_that_it_gives_in_evaluation(
    size: int, coco_mini: Path, open_split: Callable, make: Callable
) -> None:
    """Decoded at the same share of its size, drawn in the same place, in the same colours."""
    split = open_split(coco_mini, "val2017")
    evaluated = ViewDataset(split, size, [ObjectAsk(view=PLAIN)], {PLAIN: None})
    made = make("task=[classification]", f"data.image_size={size}")
    predictor = Predictor(made.model, made.spec)
    inputs: list[torch.Tensor] = []
    made.model.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    for index in range(0, len(split), 4 if size < 640 else 20):
        (row,) = evaluated[(0, index)]
        predictor.predict(split.image_file(index))
        assert torch.equal(inputs[-1][0].permute(1, 2, 0), torch.from_numpy(row.image))


def test_a_picture_that_is_no_file_is_seen_alike(coco_mini: Path, make: Callable) -> None:
    """PIL image, array and tensor are one input, that of the file but for another decoder."""
    made = make("task=[classification]", "data.image_size=640")
    predictor = Predictor(made.model, made.spec)
    inputs: list[torch.Tensor] = []
    made.model.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    file = sorted((coco_mini / "val2017").glob("*.jpg"))[0]
    picture = Image.open(file).convert("RGB")
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    for image in (file, picture, np.asarray(picture), tensor):
        predictor.predict(image)
    of_file, *others = (i.float() for i in inputs)
    assert all(torch.equal(other, others[0]) for other in others)
    assert (others[0] - of_file).abs().mean() < 0.2


def test_results_name_what_they_found(make: Callable, shapes: Path) -> None:
    made = make("task=[detection,classification,embedding]", "task.detection.min_score=0.0")
    predictor = Predictor(made.model, made.spec)
    file = sorted((shapes / "val").glob("*.jpg"))[0]
    found = predictor.predict(file)
    names, labels = predictor.spaces["objects"].names, found["detection"].labels.tolist()
    assert found["detection"].names == [names[label] for label in labels]
    assert found["classification"].names == list(names)
    least = float(found["detection"].scores.median())
    fewer = predictor.predict(file, min_score=least)
    assert 0 < len(fewer["detection"].scores) < len(labels)
    assert fewer["detection"].scores.min() >= least
    assert len(fewer["embedding"].vectors) == len(fewer["detection"].scores)
    with pytest.raises(ConfigError, match=r"min_score=-1"):
        predictor.predict(file, min_score=-1)


def test_a_pil_image_is_turned_and_scaled_as_its_file(tmp_path: Path, make: Callable) -> None:
    """By the camera's tag, and of 16 bits the upper ones."""
    made = make("task=[classification]", "data.image_size=64")
    predictor = Predictor(made.model, made.spec)
    inputs: list[torch.Tensor] = []
    made.model.register_forward_pre_hook(lambda _, given: inputs.append(given[0].float()))
    ramp = np.linspace(0, 255, 40 * 60).reshape(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.stack([ramp] * 3, -1).astype(np.uint8)).save(
        tmp_path / "turned.png", exif=exif
    )
    Image.fromarray((ramp * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    for file in (tmp_path / "turned.png", tmp_path / "deep.png"):
        predictor.predict(file)
        predictor.predict(Image.open(file))
        of_file, of_picture = inputs[-2:]
        assert of_file.std() > 10
        assert (of_file - of_picture).abs().max() <= 1


def test_a_pil_image_that_is_broken_or_large_is_refused(
    shapes: Path, tmp_path: Path, make: Callable
) -> None:
    made = make("task=[classification]")
    photo = sorted((shapes / "val").glob("*.jpg"))[0]
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be decoded"):
        Predictor(made.model, made.spec).predict(Image.open(tmp_path / "cut.jpg"))
    with pytest.raises(DataError, match="64×64 pixels, more than 1000"):
        Predictor(made.model, made.spec, max_pixels=1000).predict(photo)
    with pytest.raises(DataError, match="64×64 pixels, more than 1000"):
        Predictor(made.model, made.spec, max_pixels=1000).predict(Image.open(photo))
