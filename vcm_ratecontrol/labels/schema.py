"""The one label schema: a row per (picture, object or whole picture, codec, preset, QP, machine).

Rows of one picture and machine are of three kinds:

- `object` = -1, `qp` = ORIGINAL_QP: the machine's own result on the original picture;
- `object` = -1, `qp` >= 0: its result on the decoded picture, with score and verdict;
- `object` >= 0: one object of a detector, in the order of its original detections. At ORIGINAL_QP the row
  holds box, class and confidence; at a QP it holds the best match there.

Raw results are kept (a detector's boxes, a classifier's five best labels), so every threshold can be set anew
without encoding again. `score` and `satisfied` are the values at the default thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1

# `qp` of the rows that hold a machine's result on the original picture.
ORIGINAL_QP = -1

# Stored confidences, probabilities and IoUs are rounded down to this step: exact in 16-bit floats, and no
# value crosses a threshold such as 0.5 upwards.
FRACTION_STEP = 1.0 / 1024.0

# Stored boxes are in quarter pixels, unsigned 16 bit: pictures up to 16383 samples.
BOX_STEP = 0.25

# Detections below this confidence are not stored: no threshold below it can be asked of the table.
MIN_STORED_CONFIDENCE = 0.2

# Objects (rows with object >= 0) are the original detections with at least the default T_conf.
MIN_OBJECT_CONFIDENCE = 0.3

TOP_LABELS = 5

STATUSES = ("ok", "invalid", "failed")


def label_schema() -> pa.Schema:
    """Arrow schema of the table; its metadata carry the version. All strings are dictionary-encoded."""
    import pyarrow as pa

    text = pa.dictionary(pa.int16(), pa.string())
    fields = [
        # SHA-256 of the picture's file (of the RGB frame's bytes for a clip's frame), hexadecimal.
        ("picture", text),
        # -1: the whole picture; else the index of the object among the machine's original detections.
        ("object", pa.int16()),
        ("codec", text),
        ("preset", text),
        # 'still' (intra) or 'inter' (random access).
        ("coding", text),
        # QP of the plan; ORIGINAL_QP for the original.
        ("qp", pa.int16()),
        ("machine", text),
        ("task", text),
        # 'ok'; 'invalid': a detector that sees nothing on the original and was not run on decoded pictures;
        # 'failed': the machine raised an error, it counts as invalid.
        ("status", text),
        # Slice QP read back from the encoder for this picture.
        ("slice_qp", pa.int16()),
        # Size of the coded picture; for 'inter' the mean over its segment.
        ("bits", pa.int32()),
        # Whole picture: F1 (detector), probability of the original's label (classifier).
        # Object: confidence of the match if it has the class and IoU >= 0.5, else 0.
        ("score", pa.float16()),
        # Null where the machine's opinion does not count: failed, or no object with the default T_conf on the
        # original. The mean over the rest is the SMR.
        ("satisfied", pa.bool_()),
        # Whole picture: label and confidence per result, best first (classifier: TOP_LABELS of them).
        # Object: one entry, the object itself at ORIGINAL_QP, else its best match (empty: none overlaps).
        ("labels", pa.list_(pa.int16())),
        ("confidences", pa.list_(pa.float16())),
        # Four numbers per detection, x1 y1 x2 y2 in quarter pixels of the picture as annotated.
        ("boxes", pa.list_(pa.uint16())),
        # Object rows: IoU of the best match.
        ("match_iou", pa.float16()),
    ]
    return pa.schema(fields, metadata={"vcm_labels_version": str(SCHEMA_VERSION)})


def picture_schema() -> pa.Schema:
    """Arrow schema of the picture list: one row per annotated picture."""
    import pyarrow as pa

    return pa.schema(
        [
            ("picture", pa.string()),
            # File name, or file name '#' frame index, without folders: for people, not a key.
            ("source", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            # 'train', 'validation' or 'test', by a stable hash of the content (see labels.splits).
            ("split", pa.string()),
        ],
        metadata={"vcm_labels_version": str(SCHEMA_VERSION)},
    )
