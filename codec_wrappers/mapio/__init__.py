"""Readers and writers of QP maps, one file per format.

| format | file | keeps | loses |
|---|---|---|---|
| `npz` | NumPy archive | everything | nothing |
| `png` | picture for the eye | everything | nothing |
| `kvazaar` | ROI text and binary, also uvg266's | QPs as offsets from a base QP | picture size, block size, base |
| `svtav1` | lines of `--roi-map-file` | offsets of the quantiser index | the same; at most 8 levels a frame |
| `x265` | zones and qpfile | one QP per frame: its lowest | the blocks |

What a format loses the caller gives back at reading; then reading returns exactly the map that was written
(for x265: with every block at its frame's lowest QP).
"""
