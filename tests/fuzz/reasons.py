"""Why what was accepted is right: for each accepted case, the first pattern that its name meets."""

from __future__ import annotations

import re

IMAGES = (
    "bytes behind|flipped in the middle|black|black in colour|grey|noise|alpha|palette|one bit|"
    "16 bits|cmyk|gif|bmp|tiff|webp|turned|not readable"
)
REASONS = (
    (r"(annotations|drawn): .*\bid\b|annotations: .*\bids\b", "ids are only names"),
    (r"annotations: captions .*(crowd|area|box|polygon|run lengths|extra fields)",
     "a caption has no such field"),
    (r"annotations: captions annotations\.\d\.caption", "a text is a caption, whatever it says"),
    (r"annotations: stuff annotations", "semantic labels are the PNGs; these entries are not read"),
    (r"annotations: .*(stuff|panoptic) .*(ids|twice|run lengths|polygon|box|area|fields)",
     "semantic labels are the PNGs, panoptic boxes and areas come from them, too"),
    (r"annotations: .*supercategory", "no metric reads the group of a category"),
    (r"annotations: .*(area|num_keypoints)",
     "only sorts objects by size, or is counted anew; the truth is sorted as the result is"),
    (r"annotations: .*iscrowd", "no crowd, or a crowd, as it says; none of a crowd is none"),
    (r"annotations: .*isthing", "not read where the json is not panoptic"),
    (r"annotations: .*(segmentation|polygon|run lengths)",
     "outlines are drawn as far as they lie within the image; an object may have none, and where "
     "only boxes or joints are read, outlines are not"),
    (r"annotations: .*(bbox\.\d = -?[\d.]+$|box outside$|empty box$)",
     "a box counts as far as it lies within the image"),
    (r"annotations: .*(keypoints annotations\.\d\.keypoints|skeleton)",
     "joints may be absent or outside of the image; lines of a skeleton are only drawn, those to "
     "joints that are not there are left out"),
    (r"annotations: lvis categories\.\d\.(def|image_count|instance_count|synonyms|synset)",
     "no metric reads what describes a category"),
    (r"annotations: .*(file_name|long name|fields|track_id)", "read by no task that is scored"),
    (r"annotations: .*(deleted|twice|one annotation|no annotations| = \[\])",
     "fewer or more entries are another data set, which is read as it is"),
    (r"annotations: .*unknown (image|category)", "not read where the labels are PNGs"),
    (r"drawn: ", "a document that is still valid is another data set, which is read as it is"),
    (r"label files: .*(without its end|not readable)$",
     "every pixel can be decoded (the tests' user may read every file)"),
    (r"label files: .*(black|black in colour|turned)$",
     "a PNG of the right size and known ids is a label, whatever it shows"),
    (r"images in training: one pixel,", "an image of the same shape is taken for a smaller copy"),
    (rf"images in training: ({IMAGES}),", "an image that decodes is an image, whatever it shows"),
    (r"prediction: named ", "the row carries the name as it was given"),
    (r"prediction: .*among others$", "the images that decode have their rows; the rest is named"),
    (rf"prediction: ({IMAGES}|one pixel|other size)$",
     "an image that decodes is an image, whatever it shows"),
    (r"sources: (val|\*\*)[/*]*(\.jpg)?$", "a folder or pattern that holds images"),
    (r"checkpoints: \w+: flipped at 1\.0", "the byte behind the last one changes nothing"),
    (r"checkpoints: weights: ", "`weights=` reads tensors by name and nothing else of the file"),
    (r"checkpoints: .*(optimiser|schedule|loops|callbacks)", "only `resume=` needs these states"),
    (r"checkpoints: (predict|info): ",
     "the command builds no data source, logger, profiler or trainer, so it does not read this"),
    (r"checkpoints: .*a version of text", "the version is Lightning's note, not read here"),
    (r"checkpoints: .*(in another order|other types|root of Lightning's)",
     "tensors are matched by name and converted as PyTorch does; the rest is not read"),
    (r"checkpoints: eval: ", "evaluation is given its logger and data anew"),
    (r"resume: (last|best)\.ckpt .*(missing|flipped at 1\.0)|resume: without",
     "the other checkpoint goes on, or the run starts anew and says so"),
    (r"resume: last\.ckpt", "a run is built from its config.yaml; of the checkpoint's own "
     "configuration nothing is built"),
    (r"resume: (metrics\.csv (empty|binary)|a lock that is a pipe)$",
     "the table is written anew; a lock of nobody is free"),
    (r"resume: (augment|data\.batch_size|data\.image_size|logger|name|optim\.ema_decay)=",
     "this key may change between the parts of a run"),
    (r"resume: task\.detection\.anchors=auto$", "the anchors of a run stand in its checkpoint"),
    (r"configuration: (trust|name|data\.derived\.\w+|data\.sources\.captions\.\w+)=",
     "nothing in this run asks for the name"),
    (r"configuration: (augment|optim|weighting|task|trainer)\..*=1e9$",
     "a large weight, length or temperature is one; gradients are clipped, and the weights that it "
     "left are finite"),
    (r"configuration: \+?trainer\.(\w+=null|benchmark|detect_anomaly|deterministic|max_time|"
     r"min_epochs|profiler|limit_val_batches=0$)", "Lightning's own switch, which the run obeys"),
    (r"configuration: (-m|--help|--info|--version|hydra\.sweep\.dir=x)$",
     "a flag that tells something, or says where a sweep would write"),
    (r"configuration: (data\.(train=val|val=train|batch_size=3|workers=2|derive=true|shapes=null)"
     r"|optim\.(final_lr=1|warmup_epochs=99))$", "unusual, and possible: the run is complete"),
    (r"configuration: (task=detection|task=\[detection,detection\]|~task\.embedding\.dim)$",
     "the group list and the defaults that Hydra makes of it"),
    (r"configuration: (task\.\w+\.views?=|trunk\.stem=1$|trunk=timm |weighting=uncertainty$|"
     r"\+weighting\.tasks\.detection=0$|implicit\.sites=\[\]$|\+implicit\.per_task\.detection\.)",
     "a choice that the README offers, or its smallest case: the run is complete"),
    (r"api: predict\((np|torch|PIL|PHOTO)", "an image of any common mode and size is predicted"),
    (r"api: (trust nothing|least score|an empty batch)$", "the argument's default, or none of it"),
)  # fmt: skip


def reason(case: str) -> str | None:
    """Of an accepted case, by `group: name`; None where nobody has thought about it."""
    return next((why for pattern, why in REASONS if re.match(pattern, case, re.DOTALL)), None)
