"""Captions are scored as COCO scores them, with Java and without."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from unified.data.split import Split
from unified.kinds.captions import Caption
from unified.metrics import words
from unified.metrics.captioning import BLEU, CaptionScores
from unified.metrics.cider import CiderD
from unified.view import ImageMeta

SAID = (
    "a man riding a wave on top of a surfboard.", "two dogs play with a frisbee in the grass",
    "a plate of food with broccoli and meat", "A woman's umbrella is open; it's raining!",
    "a group of people standing around a kitchen", "the train is pulling into the station",
    "a cat is sitting on a laptop computer", "there are three zebras (eating) grass",
    "a bathroom with a toilet, sink and shower", "a \"stop\" sign at the corner of 5th st.",
    "an airplane that is flying in the sky", "two giraffes stand next to each other - in a zoo",
    "a man", "people people people people people", "a tennis player hits the ball with his racket",
    "don't park here: cars can't stop", "a red double-decker bus drives down a street",
    "several boats are docked in the harbor", "a child eats pizza at a table ...",
    "a person on skis on a snowy hill",
)  # fmt: skip
"""Twenty captions, with what tokenisers stumble over."""
needs_java = pytest.mark.skipif(not words.has_java(), reason="there is no Java")


@pytest.fixture(scope="module")
def split(coco_mini: Path, open_split: Callable) -> Split:
    return open_split(coco_mini, "val2017", "captions")


def scored(split: Split, said: dict[int, str], java: bool) -> tuple[dict[str, float], Any]:
    """Image place → caption, through the metric."""
    source = split.sources["captions"]
    metric = CaptionScores(source, java)
    for place, text in said.items():
        tokens = torch.from_numpy(source.space.encode([text])[0].astype(np.int64))
        meta = ImageMeta(int(split.images.ids[place]), "", *split.images.size(place), np.eye(2, 3))
        metric.update([Caption(tokens)], [meta])
    metric.gather()
    return metric.compute(), metric


def official(split: Split, said: dict[int, str], java: bool) -> dict[str, float]:
    """By pycocoevalcap's own classes."""
    source = split.sources["captions"]
    results = {place: [{"caption": text}] for place, text in said.items()}
    truths = {place: [{"caption": text} for text in source.of(place)] for place in said}
    if java:
        split_up = PTBTokenizer().tokenize
    else:

        def split_up(captions: dict) -> dict:
            return {
                key: words.split_words([row["caption"] for row in rows], java=False)[0]
                for key, rows in captions.items()
            }

    results, truths = split_up(results), split_up(truths)
    with contextlib.redirect_stdout(io.StringIO()):
        found = dict(zip(BLEU, Bleu(4).compute_score(truths, results, verbose=0)[0], strict=True))
        found["ROUGE-L"] = Rouge().compute_score(truths, results)[0]
        found["CIDEr-D"] = Cider().compute_score(truths, results)[0]
        if java:
            found["METEOR"] = Meteor().compute_score(truths, results)[0]
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("java", [pytest.param(True, marks=needs_java), False])
def test_twenty_captions_score_what_the_official_classes_give(split: Split, java: bool) -> None:
    said = dict(enumerate(SAID))
    found, metric = scored(split, said, java)
    wanted = official(split, said, java)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert metric.about() == {"tokeniser": words.JAVA if java else words.PLAIN}


@pytest.mark.parametrize("java", [pytest.param(True, marks=needs_java), False])
def test_references_score_what_the_official_classes_give(split: Split, java: bool) -> None:
    """The first of each image's five, as the source has it in its result."""
    source = split.sources["captions"]
    said = {i: split.result("captions", i).text for i in range(len(split))}
    found, _ = scored(split, said, java)
    wanted = official(split, {i: source.of(i)[0] for i in said}, java)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert found["BLEU-4"] == pytest.approx(1)
    assert found["ROUGE-L"] == pytest.approx(1)


@needs_java
def test_both_tokenisers_split_real_captions_alike(split: Split) -> None:
    source = split.sources["captions"]
    texts = [text for i in range(len(split)) for text in source.of(i)]
    (java, one), (plain, other) = (words.split_words(texts, java) for java in (True, False))
    assert (one, other) == (words.JAVA, words.PLAIN)
    assert len(java) == len(plain) == len(texts)
    assert np.mean([a == b for a, b in zip(java, plain, strict=True)]) > 0.97


@pytest.mark.parametrize("java", [pytest.param(True, marks=needs_java), False])
def test_texts_keep_their_places(java: bool) -> None:
    """Also those of no words, of several lines, and of letters beyond ASCII."""
    texts = ["", "A dog.\nA cat!", "...", "größer 犬", ""]
    found, _ = words.split_words(texts, java)
    assert len(found) == 5
    assert [found[i] for i in (0, 2, 4)] == [""] * 3
    assert found[1].split()[-2:] == ["a", "cat"]
    assert found[3].split()[0] == "größer"


def test_where_java_fails_the_other_tokeniser_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert words.split_words(["A dog."], java=True) == (["a dog"], words.PLAIN)
    assert "Java's tokeniser fails" in caplog.text
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert not words.has_java()


def test_cider_is_that_of_the_official_class() -> None:
    """Of each caption, within the images that are scored."""
    rng = np.random.default_rng(0)
    vocabulary = ["a", "red", "blue", "dog", "cat", "sits", "runs", "on", "mat", "two", "small"]

    def sentence() -> str:
        return " ".join(rng.choice(vocabulary, rng.integers(1, 12)))

    references = {i: [sentence() for _ in range(rng.integers(1, 6))] for i in range(40)}
    said = {i: [sentence() if i % 3 else references[i][0]] for i in range(40)}
    _, wanted = Cider().compute_score(references, said)
    own = list(references.values())
    found = CiderD(own).score([texts[0] for texts in said.values()], own)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert found.std() > 0


def test_words_of_many_images_count_less() -> None:
    corpus = [["a dog runs"], ["a cat runs"], ["a bird sings"], ["a horse runs"]]
    rare, common = CiderD(corpus).score(["dog", "runs"], [["dog runs"], ["dog runs"]])
    assert rare > common > 0
    assert CiderD(corpus).score(["a"], [["a dog runs"]]) == 0  # it says nothing of an image
    assert CiderD(corpus).score(["dog"], [[]]) == 0
    assert CiderD([]).score([], []).shape == (0,)


def test_the_result_is_cocos(split: Split, tmp_path: Path) -> None:
    _, metric = scored(split, {0: SAID[0], 2: SAID[2]}, java=False)
    metric.write(tmp_path)
    rows = json.loads((tmp_path / "captions.json").read_text())
    ids = split.images.ids[[0, 2]].tolist()
    assert rows == [
        {"image_id": ids[0], "caption": SAID[0]}, {"image_id": ids[1], "caption": SAID[2]}
    ]  # fmt: skip


def test_the_share_of_the_mean_is_below_one(split: Split) -> None:
    metric = CaptionScores(split.sources["captions"], java=False)
    shares = [metric.share(value) for value in (0.0, 0.5, 1.2, 10.0)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] < 1
    assert metric.about() == {}
