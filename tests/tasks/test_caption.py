"""Captions: what is read, what is learnt of it, how it is said and how it is scored."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from heads.caption import positions
from unified.arrays import Ragged, offsets_of
from unified.checkpoint import ABOUT, describe
from unified.data.coco.captions import SPECIAL, trained_on
from unified.data.sources import Folders
from unified.errors import ConfigError, DataError
from unified.inference import load
from unified.kinds.captions import Caption, CaptionAsk, CaptionLabel, Vocabulary
from unified.metrics import words as words_of
from unified.metrics.captioning import METEOR, CaptionScores
from unified.ops.generation import Marks, sample, search
from unified.task import DataSpec, Upstream
from unified.weights import rebuild

TASK = ["task=[caption]", "task.caption.width=32", "task.caption.layers=2"]


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return Vocabulary(trained_on(iter(["a dog sits on a mat", "two cats", "a mat"] * 9), 300), 6)


# --- Text ---------------------------------------------------------------------------------


def test_a_vocabulary_says_what_it_has_read(words: Vocabulary) -> None:
    """In lower case; signs of any script survive, as they are bytes."""
    for text in ("two cats sit on a mat.", "ein größerer hund — 犬", "a  dog"):
        assert words.text(words.encode([text])[0]) == text
    assert words.text(words.encode(["A Dog"])[0]) == "a dog"
    assert (
        words.text([*words.encode(["a dog"])[0], words.end, *words.encode(["cat"])[0]]) == "a dog"
    )
    assert words.text([]) == ""


def test_the_same_captions_make_the_same_vocabulary() -> None:
    """Every process of a job trains its own."""
    texts = [f"{a} {b}" for a in ("red", "blue", "green") for b in ("dog", "cat", "bird")] * 50
    assert len({trained_on(iter(texts), 290) for _ in range(3)}) == 1


def test_a_vocabulary_has_no_more_tokens_than_asked_for(
    shapes: Path, open_sources: Callable
) -> None:
    sources = open_sources(shapes, "train")
    named = sources.config.sources["captions"]
    sizes = {}
    for size in (270, 8192):
        sources = open_sources(shapes, "train")
        sources.config.sources["captions"] = {**named, "vocabulary": size}
        sizes[size] = len(sources.open("captions").space)
    sources = open_sources(shapes, "train")
    sources.config.sources["captions"] = {**named, "vocabulary": 10}
    with pytest.raises(ConfigError, match=r"data\.sources\.captions\.vocabulary"):
        sources.open("captions")
    assert sizes[270] == 270
    assert 270 < sizes[8192] < 1000


def test_a_tokenizer_of_ones_own_is_taken_from_its_file(
    shapes: Path, tmp_path: Path, make: Callable
) -> None:
    own = Tokenizer.from_str(trained_on(iter(["one two three"] * 9), 280))
    own.enable_truncation(3)
    own.save(str(tmp_path / "own.json"))
    made = make(*TASK, f"data.sources.captions.tokenizer={tmp_path / 'own.json'}")
    space = made.spec.space(CaptionAsk)
    assert len(space) == own.get_vocab_size()
    assert len(space.encode(["one two three one two three"])[0]) == 6  # nothing is cut
    with pytest.raises(ConfigError, match=r"data\.sources\.captions\.tokenizer=nowhere\.json"):
        make(*TASK, "data.sources.captions.tokenizer=nowhere.json")


@pytest.fixture
def learnt(tmp_path: Path) -> tuple[Path, list[str]]:
    """A GPT-2 whose last layer is its own, and the tokenizer that it learnt with, of text only."""
    own = Tokenizer.from_str(trained_on(iter(["one two three"] * 9), 280))
    text = json.loads(own.to_str())
    text["added_tokens"] = []
    text["model"]["vocab"] = {
        token: number - len(SPECIAL)
        for token, number in text["model"]["vocab"].items()
        if token not in SPECIAL
    }
    own = Tokenizer.from_str(json.dumps(text))
    own.save(str(tmp_path / "own.json"))
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4}
    marks = dict.fromkeys(("bos_token_id", "eos_token_id"))
    torch.manual_seed(0)
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=own.get_vocab_size(), tie_word_embeddings=False, **sizes, **marks)
    )
    network.save_pretrained(tmp_path / "learnt")
    words = f"data.sources.captions.tokenizer={tmp_path / 'own.json'}"
    return tmp_path / "learnt", [*TASK, words, f"task.caption.pretrained={tmp_path / 'learnt'}"]


def test_the_decoder_starts_from_one_that_has_learnt_words(
    learnt: tuple[Path, list[str]], make: Callable
) -> None:
    """It says of text what the other says, as long as it sees nothing."""
    folder, overrides = learnt
    made = make(*overrides, "implicit=none")
    decoder = made.tasks["caption"].head.decoder.eval()
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    count = theirs.config.vocab_size
    assert len(made.spec.space(CaptionAsk)) == count + len(SPECIAL)
    for block in decoder.transformer.h:
        nn.init.zeros_(block.crossattention.c_proj.weight)
    text = torch.randint(count, (3, 7), generator=torch.Generator().manual_seed(0))
    ours = decoder(input_ids=text, encoder_hidden_states=torch.randn(3, 5, 32)).logits
    torch.testing.assert_close(ours[..., :count], theirs(text).logits, rtol=1e-4, atol=1e-5)
    shutil.rmtree(folder)  # a trained network needs it no more
    tensors = {f"model.{name}": value for name, value in made.model.state_dict().items()}
    state = {ABOUT: describe(made.config, made.spec), "state_dict": tensors}
    again, _ = rebuild(state, made.config)
    for name, value in again.state_dict().items():
        assert torch.equal(value, made.model.state_dict()[name]), name


def rewritten(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("wrong", "overrides", "advice"),
    [
        ({}, ["task.caption.width=64"], r"(?s)n_embd .*task\.caption\.width=32"),
        ({}, ["task.caption.heads=2"], r"(?s)n_head .*task\.caption\.heads=4"),
        ({"n_layer": 3}, ["task.caption.layers=3"], r"lacks .*h\.2"),
        ({"activation_function": "relu"}, [], "activation_function relu instead"),
        ({"model_type": "gpt_neo"}, [], "model_type gpt_neo"),
        ({}, ["data.sources.captions.tokenizer=null"], r"data\.sources\.captions\.tokenizer"),
        (None, [], "cannot be had"),
    ],
)
def test_a_decoder_of_another_sort_is_refused(
    wrong: dict[str, Any] | None,
    overrides: list[str],
    advice: str,
    learnt: tuple[Path, list[str]],
    make: Callable,
) -> None:
    folder, own = learnt
    if wrong is None:
        (folder / "model.safetensors").write_bytes(b"nothing")
    else:
        rewritten(folder, **wrong)
    with pytest.raises(ConfigError, match=advice):
        make(*own, *overrides)


def test_no_code_of_a_folder_is_run(
    learnt: tuple[Path, list[str]], make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, overrides = learnt
    rewritten(folder, model_type="other", auto_map={"AutoConfig": "own.Own"})
    (folder / "own.py").write_text(f"open({str(folder / 'run')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ConfigError, match="cannot be had"):
        make(*overrides)
    assert not (folder / "run").exists()


def test_a_tokenizer_that_cannot_be_used_is_refused(tmp_path: Path, make: Callable) -> None:
    key = "data.sources.captions.tokenizer"
    with pytest.raises(ConfigError, match=r"no file .*tokenizer\.json"):
        make(*TASK, f"{key}={tmp_path}")
    tokens = {"[pad]": 0, "one": 1, "two": 2}
    model = {"type": "WordLevel", "vocab": tokens, "unk_token": "[none]"}
    for change, advice in (({"vocab": {**tokens, "two": 50}}, "leaves out"), ({}, "cannot read")):
        own = Tokenizer(
            models.WordLevel(**{k: v for k, v in (model | change).items() if k != "type"})
        )
        own.pre_tokenizer = pre_tokenizers.Whitespace()
        own.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(ConfigError, match=advice):
            make(*TASK, f"{key}={tmp_path}")


def test_a_trained_decoder_keeps_what_its_weights_mean(make: Callable) -> None:
    made = make(*TASK)
    tensors = {f"model.{name}": value for name, value in made.model.state_dict().items()}
    state = {ABOUT: describe(made.config, made.spec), "state_dict": tensors}
    for change in ("levels=[p5,p4]", "heads=2"):
        other = make(*TASK, f"task.caption.{change}")
        with pytest.raises(ConfigError, match=f"task.caption.{change.split('=')[0]} cannot change"):
            rebuild(state, other.config)


def test_a_vocabulary_that_is_there_is_not_made_smaller(make: Callable) -> None:
    space = make(*TASK).spec.space(CaptionAsk)
    other = make(*TASK, "data.sources.captions.vocabulary=270")
    offered = Folders(other.config.data, "train", offered={"captions": space.to_dict()})
    with pytest.raises(ConfigError, match=f"has learnt {len(space)} tokens"):
        offered.open("captions")


def test_a_vocabulary_larger_than_the_default_is_kept(make: Callable) -> None:
    """As that of a pretrained decoder is; nobody has asked for fewer."""
    many = Tokenizer(
        models.WordLevel(
            {w: n for n, w in enumerate(SPECIAL + list(map(str, range(9000))))}, SPECIAL[0]
        )
    )
    saved = {"captions": {"tokenizer": many.to_str(), "longest": 40}}
    made = make(*TASK)
    offered = Folders(made.config.data, "train", offered=saved)
    assert len(offered.open("captions").space) == 9000 + len(SPECIAL)


def test_a_decoder_that_is_not_finite_is_refused(
    learnt: tuple[Path, list[str]], make: Callable
) -> None:
    folder, overrides = learnt
    damaged = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        damaged.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    damaged.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"h\.1\.mlp\.c_fc\.weight that is not finite"):
        make(*overrides)


def test_nothing_asks_the_hub(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to learn, nor to build a trained network again."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"asked for {args}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    made = make(*TASK)
    made.model(made.batch(2).images)
    again = Vocabulary.from_dict(json.loads(json.dumps(made.spec.space(CaptionAsk).to_dict())))
    assert again == made.spec.space(CaptionAsk)


def test_the_vocabulary_of_a_checkpoint_is_kept(
    shapes: Path, tmp_path: Path, make: Callable
) -> None:
    """By a run that goes on, and by one that starts from its weights, whatever is said now."""
    space = make(*TASK).spec.space(CaptionAsk)
    saved = {"captions": json.loads(json.dumps(space.to_dict()))}
    root = copied(shapes, tmp_path / "root", lambda d: d.update(annotations=d["annotations"][::2]))
    other = make(*TASK, f"data.root={root}")
    assert other.spec.space(CaptionAsk) != space
    going_on = Folders(other.config.data, "train")
    assert DataSpec(64, going_on.open, saved).space(CaptionAsk) == space
    started = Folders(other.config.data, "train", offered=saved).open("captions")
    assert started.space == going_on.open("captions").space == space
    assert space.text(started.read(0).tokens[0]) == started.of(0)[0].lower()


def test_a_text_that_looks_like_a_mark_is_a_text(words: Vocabulary) -> None:
    tokens = words.encode(["a dog [END] a [PAD] mat"])[0]
    assert not {words.start, words.end, words.padding} & set(tokens.tolist())
    assert words.text(tokens) == "a dog [end] a [pad] mat"


@pytest.mark.parametrize("state", [
    {"tokenizer": "{}", "longest": 3}, {"tokenizer": "no json", "longest": 3}, {"longest": 3},
])  # fmt: skip
def test_damaged_vocabularies_are_refused(state: dict) -> None:
    with pytest.raises((ValueError, KeyError)):
        Vocabulary.from_dict(state)


# --- The source ---------------------------------------------------------------------------


def copied(shapes: Path, to: Path, change: Callable[[dict], Any], split: str = "train") -> Path:
    shutil.copytree(shapes, to)
    file = to / "annotations" / f"captions_{split}.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return to


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][0].pop("caption"), "missing required field `caption`"),
        (lambda d: d["annotations"][0].update(caption="  "), "Expected a text"),
        (lambda d: d["annotations"][0].update(caption=3), "Expected `str`"),
        (lambda d: d["annotations"][0].update(image_id=999), "it names image 999"),
        (lambda d: d.update(annotations=[]), "has no captions"),
        (lambda d: d.pop("annotations"), "lacks annotations"),
    ],
)
def test_captions_that_cannot_be_are_refused(
    change: Callable, said: str, shapes: Path, tmp_path: Path, make: Callable
) -> None:
    root = copied(shapes, tmp_path / "root", change)
    with pytest.raises(DataError) as caught:
        _ = make(*TASK, f"data.root={root}").data
    assert said in str(caught.value)
    assert "captions_train.json" in str(caught.value)


def test_captions_are_those_of_the_file(coco_mini: Path, open_split: Callable) -> None:
    """Of each image, in the order of the file; of one without any nothing is known."""
    split = open_split(coco_mini, "train2017", "captions")
    source = split.sources["captions"]
    document = json.loads(source.file.read_text())
    told = 0
    for index in range(len(split)):
        own = [
            row["caption"]
            for row in document["annotations"]
            if row["image_id"] == split.images.ids[index]
        ]
        assert source.of(index) == own
        told += len(own)
        label = split.label("captions", index)
        assert len(label) == len(own)
        said = [source.space.text(label.tokens[i]) for i in range(len(label))]
        assert [text.lower().strip() for text in own] == said
    assert told == len(document["annotations"]) == 400


def test_an_image_without_captions_knows_nothing(
    shapes: Path, tmp_path: Path, open_split: Callable
) -> None:
    def drop(document: dict) -> None:
        gone = document["images"][3]["id"]
        kept = [row for row in document["annotations"] if row["image_id"] != gone]
        document["annotations"] = kept

    split = open_split(copied(shapes, tmp_path / "root", drop), "train", "captions")
    assert (~split.known("captions")).nonzero()[0].tolist() == [3]
    assert split.label("captions", 3) is None


def test_captions_that_are_cut_are_told_of(
    shapes: Path, open_sources: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    sources = open_sources(shapes, "train")
    whole = sources.open("captions").space
    sources.open("captions").check(learn=True)
    assert not caplog.text
    short = open_sources(shapes, "train").open("captions", replace(whole, longest=3))
    short.check(learn=True)
    assert "only the first 3 tokens are learnt from" in caplog.text


def test_views_that_captions_ask_for_are_not_mirrored(make: Callable) -> None:
    """Captions speak of left and right."""
    made = make("task=[detection,caption]", *TASK[1:], "task.caption.view=strong")
    assert made.config.augment["strong"].flip > 0
    assert made.data.augment["strong"].flip == 0


# --- What is learnt -----------------------------------------------------------------------


def label_of(*rows: list[int]) -> CaptionLabel:
    return CaptionLabel(Ragged(np.concatenate(rows).astype(np.int32), offsets_of(map(len, rows))))


def test_targets_have_a_row_per_caption_and_no_end_where_it_is_cut() -> None:
    ask = CaptionAsk(longest=3, start=1, end=2, padding=0)
    targets = CaptionLabel.batched(
        [label_of([7, 8], [5, 6, 7, 8, 9]), None, label_of([4])], ask, 64
    )
    assert targets.known.tolist() == [True, False, True]
    assert targets.image.tolist() == [0, 0, 2]
    assert targets.tokens.tolist() == [[1, 7, 8, 2, 0], [1, 5, 6, 7, 8], [1, 4, 2, 0, 0]]


def test_the_loss_is_that_of_each_token(make: Callable) -> None:
    """By hand, one caption after the other, without padding."""
    made = make(*TASK, "task.caption.smoothing=0.2", "task.caption.dropout=0")
    task, batch = made.tasks["caption"], made.batch(3)
    made.model.eval()
    memory = made.model(batch.images)["caption"]["memory"]
    (found,) = task.loss({"memory": memory}, batch, Upstream())[0].values()
    targets, total, count = batch.labels["captions"], 0.0, 0
    for image, tokens in zip(targets.image, targets.tokens, strict=True):
        own = tokens[tokens != task.marks.padding][None]
        logits = task.head.decoder(
            input_ids=own[:, :-1], encoder_hidden_states=memory[image].T[None].contiguous()
        ).logits
        for said, goal in zip(logits[0].log_softmax(1), own[0, 1:], strict=True):
            total -= float(0.8 * said[goal] + 0.2 * said.mean())
            count += 1
    assert int(found.count) == count
    assert float(found.total) == pytest.approx(total, rel=1e-4)


def test_no_more_captions_than_allowed_enter_the_loss(make: Callable) -> None:
    made = make(*TASK, "task.caption.max_captions=4")
    task, batch = made.tasks["caption"], made.batch(4)
    image, tokens = task._chosen(batch.labels["captions"])
    assert len(batch.labels["captions"].image) == 20
    assert image.shape == (4,)
    known = batch.labels["captions"]

    def pairs(image: torch.Tensor, tokens: torch.Tensor) -> set:
        return {(i, *t) for i, t in zip(image.tolist(), tokens.tolist(), strict=True)}

    assert pairs(image, tokens) <= pairs(known.image, known.tokens)


def test_every_caption_has_its_turn(make: Callable) -> None:
    made = make(*TASK, "task.caption.max_captions=4")
    task, known = made.tasks["caption"], made.batch(2).labels["captions"]
    seen = {tuple(t) for _ in range(40) for t in task._chosen(known)[1].tolist()}
    assert seen == {tuple(t) for t in known.tokens.tolist()}


def test_the_memory_knows_where_its_cells_are(make: Callable) -> None:
    """Of a feature that is the same everywhere, each cell's memory is another."""
    head = make(*TASK).tasks["caption"].head.eval()
    features = {n: torch.ones(1, head.stems[n].conv.in_channels, 4, 4) for n in head.levels}
    memory = head(features)["memory"][0].T
    apart = torch.cdist(memory, memory) + 9 * torch.eye(len(memory))
    assert apart.min() > 0.1


def test_places_of_levels_agree() -> None:
    """A coarse cell's place is nearer to the fine ones that it covers than to all others."""
    coarse, fine = (positions(torch.zeros(1, 64, n, n)) for n in (4, 8))
    nearest = torch.cdist(fine.T, coarse.T).argmin(1).view(8, 8)
    wanted = torch.arange(16).view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(nearest, wanted)


# --- Generation ---------------------------------------------------------------------------

MARKS = Marks(start=1, end=2, padding=0, longest=9)


@pytest.fixture(scope="module")
def decoder() -> GPT2LMHeadModel:
    """Of random weights, which are large: what it says depends on what it reads."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 10, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, add_cross_attention=True, tie_word_embeddings=False,
                        bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
        model.lm_head = nn.Linear(32, 40)
        model.lm_head.weight.mul_(3)
        model.lm_head.bias[MARKS.end] += 4
    return model


@pytest.fixture(scope="module")
def memory() -> torch.Tensor:
    return torch.randn(5, 32, 12, generator=torch.Generator().manual_seed(1)) * 2


@pytest.mark.parametrize("beams", [1, 5])
def test_a_cache_changes_nothing(decoder: Any, memory: torch.Tensor, beams: int) -> None:
    found = [search(decoder, memory, MARKS, beams, cache=cache) for cache in (True, False)]
    assert torch.equal(*found)
    assert len({tuple(row) for row in found[0].tolist()}) > 1


@pytest.mark.parametrize("beams", [1, 5])
def test_a_batch_says_what_each_image_alone_does(
    decoder: Any, memory: torch.Tensor, beams: int
) -> None:
    """Those that end earlier are filled up."""
    together = search(decoder, memory, MARKS, beams)
    lengths = set()
    for row, own in enumerate(memory):
        (alone,) = search(decoder, own[None], MARKS, beams)
        assert torch.equal(together[row, : len(alone)], alone)
        assert (together[row, len(alone) :] == MARKS.padding).all()
        lengths.add(len(alone))
    assert len(lengths) > 1


def spoken(decoder: Any, memory: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(M, L, words) log-probabilities of what stands at each place of (M, L), in one pass."""
    begin = torch.full((len(tokens), 1), MARKS.start)
    read = memory.T.expand(len(tokens), -1, -1).contiguous()
    with torch.no_grad():
        logits = decoder(
            input_ids=torch.cat([begin, tokens[:, :-1]], 1), encoder_hidden_states=read
        ).logits
    logits[..., [MARKS.start, MARKS.padding]] = -torch.inf
    return logits.log_softmax(-1)


def mean_of(decoder: Any, memory: torch.Tensor, tokens: torch.Tensor) -> float:
    """Per token, as a length penalty of 1 has it."""
    own = tokens[tokens != MARKS.padding][None]
    return float(spoken(decoder, memory, own).gather(2, own[..., None]).mean())


def test_greedy_takes_the_most_probable_number(decoder: Any, memory: torch.Tensor) -> None:
    for own, found in zip(memory, search(decoder, memory, MARKS), strict=True):
        said = found[found != MARKS.padding][None]
        assert torch.equal(spoken(decoder, own, said).argmax(-1), said)


def test_beams_find_what_is_more_probable(decoder: Any, memory: torch.Tensor) -> None:
    greedy, beams = (search(decoder, memory, MARKS, n) for n in (1, 5))
    means = [
        [mean_of(decoder, *pair) for pair in zip(memory, f, strict=True)] for f in (greedy, beams)
    ]
    better = np.subtract(means[1], means[0])
    assert min(better) > -1e-5
    assert max(better) > 1e-3


def test_as_many_beams_as_numbers_find_the_best_of_all(decoder: Any, memory: torch.Tensor) -> None:
    """Of all captions of one or two numbers."""
    every = torch.cartesian_prod(torch.arange(40), torch.arange(40))
    for own in memory:
        found = search(decoder, own[None], Marks(1, 2, 0, 1), 40)[0]
        said = spoken(decoder, own, every).gather(2, every[..., None]).squeeze(2)
        pairs = said.mean(1)[every[:, 0] != MARKS.end].max()
        assert mean_of(decoder, own, found) == pytest.approx(
            float(max(pairs, said[every[:, 0] == MARKS.end][0, 0])), abs=1e-5
        )


def test_a_length_penalty_makes_captions_longer(decoder: Any, memory: torch.Tensor) -> None:
    short, long = (
        (search(decoder, memory, MARKS, 5, length_penalty=p) != 0).sum() for p in (0.0, 3.0)
    )
    assert long > short


def test_nobody_says_what_is_no_text(decoder: Any, memory: torch.Tensor) -> None:
    """Start and padding within a caption would be learnt from, and heard by nobody."""
    many = memory.repeat(100, 1, 1)
    for found in (sample(decoder, many, MARKS), search(decoder, memory, MARKS, 5)):
        ended = (found == MARKS.end).cumsum(1) - (found == MARKS.end).long() > 0
        assert not ((found == MARKS.padding) & ~ended).any()
        assert not (found == MARKS.start).any()


def test_samples_are_drawn_by_their_probabilities(decoder: Any, memory: torch.Tensor) -> None:
    torch.manual_seed(0)
    one = memory[:1].expand(3000, -1, -1)
    drawn = torch.bincount(sample(decoder, one, MARKS)[:, 0], minlength=40) / 3000
    read = memory[0].T[None].contiguous()
    with torch.no_grad():
        logits = decoder(input_ids=torch.tensor([[1]]), encoder_hidden_states=read).logits[0, 0]
    logits[[MARKS.start, MARKS.padding]] = -torch.inf
    wanted = logits.softmax(0)
    assert (drawn - wanted).abs().max() < 0.04
    assert (drawn > 0).sum() > 2


@pytest.mark.parametrize("beams", [1, 5])
def test_a_step_waits_for_the_device_once(make: Callable, beams: int) -> None:
    """To know whether all have ended: each further number costs one value that the host reads."""
    task = make(*TASK).tasks["caption"]
    with torch.no_grad():
        task.head.decoder.lm_head.predictor.bias[task.marks.end] = -1e9  # nobody ends
    memory, reads = torch.randn(2, 32, 5), []
    for longest in (3, 8):
        count = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                nonlocal count
                count += func is torch.ops.aten._local_scalar_dense.default
                return func(*args, **(kwargs or {}))

        with Watch():
            found = search(task.head.decoder, memory, replace(task.marks, longest=longest), beams)
        assert found.shape == (2, longest + 1)
        reads.append(count)
    assert reads[1] - reads[0] == 5


def test_a_result_is_what_as_many_beams_find_as_one_says(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(*TASK, "task.caption.beams=4", "task.caption.length_penalty=2.5")
    task, memory, asked = made.tasks["caption"], torch.randn(2, 32, 5), []
    monkeypatch.setattr("tasks.caption.search", lambda *given: asked.append(given) or memory)
    assert task.keep({"memory": memory}, Upstream()) is memory
    assert asked == [(task.head.decoder, memory, task.marks, 4, 2.5)]


def test_generation_leaves_the_decoder_as_it_was(make: Callable) -> None:
    """Dropout is off while it speaks, on when it learns."""
    made = make(*TASK, "task.caption.dropout=0.5")
    task = made.tasks["caption"]
    made.model.train()
    memory = torch.randn(2, 32, 5)
    once, again = (search(task.head.decoder, memory, task.marks) for _ in range(2))
    assert torch.equal(once, again)
    assert task.head.decoder.training
    assert not once.requires_grad


# --- Reward -------------------------------------------------------------------------------


def test_the_reward_is_the_metric(make: Callable) -> None:
    """Both are CIDEr-D; of the same corpus the same number."""
    made = make(*TASK, "task.caption.scst=true", "data.val=train")
    task, source = made.tasks["caption"], made.data.train_split.sources["captions"]
    batch = made.batch(32)
    targets = batch.labels["captions"]
    space = made.spec.space(CaptionAsk)
    said = [source.read((i + 1) % 32).tokens[0] for i in range(32)]
    tokens = torch.full((32, 40), space.end)
    for row, own in enumerate(said):
        tokens[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
    image = torch.arange(32)
    reward = task.reward(tokens, image, targets)
    metric = CaptionScores(source, java=False)
    metric.update([Caption(row) for row in tokens], batch.metas)
    assert float(reward.mean()) == pytest.approx(metric.compute()["CIDEr-D"], rel=1e-6)
    assert reward.std() > 0
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(task.reward(tokens[order], order, targets), reward[order])


@pytest.mark.parametrize(
    ("samples", "baseline"), [(2, "others"), (3, "others"), (1, "greedy"), (3, "greedy")]
)
def test_better_samples_become_likelier(
    make: Callable, monkeypatch: pytest.MonkeyPatch, samples: int, baseline: str
) -> None:
    """Against the sum by hand, one caption after the other.

    Better than the others of their own image, or than its greedy caption; images without captions
    count nowhere.
    """
    made = make(
        *TASK, "task.caption.scst=true", "task.caption.dropout=0",
        f"task.caption.samples={samples}", f"task.caption.baseline={baseline}",
    )  # fmt: skip
    task, batch = made.tasks["caption"], made.batch(3)
    made.model.eval()
    memory = torch.randn(3, 32, 5) * torch.tensor([1.0, 3.0, 9.0])[:, None, None]
    several = torch.arange(3).repeat_interleave(samples)
    drawn = sample(task.head.decoder, memory[several], task.marks)
    greedy = search(task.head.decoder, memory, task.marks)
    scores, of_greedy = torch.rand(3 * samples), torch.rand(3)

    def draw(decoder: object, read: torch.Tensor, *_: object) -> torch.Tensor:
        assert torch.equal(read, memory[several])
        return drawn

    def reward(tokens: torch.Tensor, image: torch.Tensor, _: object) -> torch.Tensor:
        if len(image) == 3 and tokens is not drawn:
            assert torch.equal(tokens, greedy)
            assert image.tolist() == [0, 1, 2]
            return of_greedy
        assert tokens is drawn
        assert torch.equal(image, several)
        return scores

    monkeypatch.setattr("tasks.caption.sample", draw)
    monkeypatch.setattr(task, "reward", reward)
    known = torch.tensor([True, False, True])
    targets = replace(batch.labels["captions"], known=known)
    batch.labels = {"captions": targets}

    def likely() -> torch.Tensor:
        ids = torch.cat([torch.full((len(drawn), 1), task.marks.start), drawn], 1)
        logits = task._logits(memory, several, ids)
        surprise = F.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction="none")
        return -(surprise.view_as(drawn) * (drawn != task.marks.padding)).sum(1)

    before, wanted, better = likely(), 0.0, []
    for row, image in enumerate(several.tolist()):
        others = [scores[r] for r in range(len(scores)) if several[r] == image and r != row]
        exceeded = sum(others) / len(others) if baseline == "others" else of_greedy[image]
        better.append(float(scores[row] - exceeded))
        wanted -= better[-1] * float(before[row].detach()) * bool(known[image])
    optimizer = torch.optim.SGD(task.head.decoder.parameters(), lr=0.02)
    (mean,) = task.loss({"memory": memory}, batch, Upstream())[0].values()
    assert float(mean.total.detach()) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    said = (drawn != task.marks.padding).sum(1)
    assert int(mean.count) == int(said[known[several]].sum())
    (mean.total / mean.count).backward()
    optimizer.step()
    moved = ((likely() - before) * torch.tensor(better) * known[several]).sum()
    assert float(moved.detach()) > 0


def test_captions_of_one_reward_teach_nothing(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(*TASK, "task.caption.scst=true", "task.caption.dropout=0")
    task, batch = made.tasks["caption"], made.batch(2)
    memory = made.model(batch.images)["caption"]["memory"].detach()
    monkeypatch.setattr(task, "reward", lambda tokens, *_: torch.full((len(tokens),), 0.25))
    (mean,) = task.loss({"memory": memory}, batch, Upstream())[0].values()
    assert float(mean.total.detach()) == 0
    assert int(mean.count) > 0


# --- Network ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.caption.samples=1", r"samples=1 leaves no others(.|\n)*baseline=greedy"),
        ("task.caption.levels=[p9]", r"task\.caption\.levels: the trunk has no level p9"),
        ("task.caption.heads=5", r"task\.caption\.width=32"),
        ("task.caption.levels=[]", r"task\.caption\.levels"),
        ("task.caption.beams=0", r"task\.caption\.beams"),
        ("task.caption.samples=0", r"task\.caption\.samples"),
        ("task.caption.smoothing=2", r"task\.caption\.smoothing"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(*TASK, override)


def test_codes_act_on_memory_and_on_every_word(make: Callable) -> None:
    """Each alone changes what is said; folded they say the same."""
    made = make(*TASK, "implicit=vector")
    task, batch = made.tasks["caption"], made.batch(2, training=False)
    made.model.eval()
    with torch.no_grad():
        memory = made.model(batch.images)["caption"]["memory"]
        ids = torch.tensor([[task.marks.start]] * 2)
        logits = task._logits(memory, torch.arange(2), ids.repeat(1, 3))
        task.head.refine["words"].code.decoder.z += torch.randn(len(made.spec.space(CaptionAsk)))
        other = task._logits(memory, torch.arange(2), ids.repeat(1, 3))
        assert (other - logits).abs().amax((0, 2)).min() > 1e-4  # in every step
        made.model.fuse()
        assert task.head.refine["words"].code is None
        folded = task._logits(memory, torch.arange(2), ids.repeat(1, 3))
        torch.testing.assert_close(folded, other, atol=1e-5, rtol=1e-4)
        assert not math.isnan(float(folded.sum()))


def test_every_vocabulary_has_what_is_no_text(words: Vocabulary) -> None:
    assert [words.padding, words.start, words.end] == [0, 1, 2]
    assert [words.text([i]) for i in (0, 1)] == ["", ""]
    assert len(SPECIAL) == 3


def test_a_run_says_what_it_sees(small: list[str], run_command: Callable, tmp_path: Path) -> None:
    """From the command line: learnt, scored, said; and once more, rewarded, from its weights."""
    run_command("train", *small, *TASK, "trainer=smoke", "logger=none", "out=run", cwd=tmp_path)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["scored"]["caption"]["tokeniser"] == words_of.PLAIN
    assert results["metrics"]["caption"]["CIDEr-D"] >= 0
    rows = json.loads((tmp_path / "run" / "captions.json").read_text())
    assert len(rows) == 12
    photo = next((tmp_path / "run").glob("predictions.jpg"))
    done = run_command(
        "predict",
        "ckpt=run",
        f"source={photo}",
        "out=said",
        "trainer.accelerator=cpu",
        cwd=tmp_path,
    )
    (row,) = json.loads((tmp_path / "said" / "predictions.json").read_text())
    assert row["caption"] == load(tmp_path / "run").predict(photo)["caption"].text
    assert "found" not in done.stdout
    # The default tasks do not include captions; the checkpoint's do.
    greedy = ("task.caption.beams=1", "task.caption.length_penalty=0.5")
    with_java = {"PATH": os.environ["PATH"]}
    run_command("eval", "ckpt=run", *greedy, "out=greedy", cwd=tmp_path, **with_java)
    scored = json.loads((tmp_path / "greedy" / "results.json").read_text())
    assert (METEOR in scored["metrics"]["caption"]) == words_of.has_java()
    for wrong, said in (
        ("task.caption.beams=none", "task.caption.beams=none"),
        ("task.captoin.beams=1", "the checkpoint has no task captoin"),
        ("~task.caption", "~task.caption cannot change"),
        ("~task.caption.beams", "give another value"),
    ):
        about = run_command("info", "ckpt=run", wrong, cwd=tmp_path, check=False)
        assert about.returncode == 2
        assert said in about.stderr
    helped = run_command("predict", "ckpt=run", "task.caption.beams=2", "--help", cwd=tmp_path)
    assert "task.caption.beams=2" in helped.stdout
    several = run_command("info", "-m", "ckpt=run", "task.caption.beams=1,2", cwd=tmp_path)
    assert "│ task.caption.beams=2 │" in several.stdout
    run_command("train", "resume=run", "trainer.max_epochs=3", greedy[0], cwd=tmp_path)
    assert "beams: 1" in (tmp_path / "run" / "config.yaml").read_text()
    again = ("train", *small, *TASK, "trainer=smoke", "trainer.max_epochs=1", "logger=none")
    rewarded = (*again, "weights=run", "task.caption.scst=true", "out=rewarded")
    # Every shape fits, and weights would mean something else.
    swapped = run_command(*rewarded, "task.caption.heads=2", cwd=tmp_path, check=False)
    assert "task.caption.heads cannot change" in swapped.stderr
    run_command(*rewarded, cwd=tmp_path)
    assert json.loads((tmp_path / "rewarded" / "results.json").read_text())["epochs"] == 1
