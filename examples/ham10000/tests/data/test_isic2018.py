from pathlib import Path

import pytest

from ham10000.data import convert_challenge, read_table
from ham10000.errors import DataError

TRUTH = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nI1,0.0,1.0,0.0,0.0,0.0,0.0,0.0\nI2,1,0,0,0,0,0,0\n"
GROUPS = """image,lesion_id,diagnosis_confirm_type
I2,L2,histopathology
I1,L1,single image expert consensus
"""


def test_the_tables_of_the_challenge_become_ours(tmp_path: Path) -> None:
    truth, groups, out = (tmp_path / name for name in ("truth.csv", "groups.csv", "out.csv"))
    truth.write_text(TRUTH)
    groups.write_text(GROUPS)
    convert_challenge(truth, groups, out)
    table = read_table(out)
    assert table["dx"].tolist() == ["nv", "mel"]
    assert table["lesion_id"].tolist() == ["L1", "L2"]
    assert table["dx_type"].tolist() == ["consensus", "histo"]
    assert table["age"].isna().all()
    truth.write_text(TRUTH.replace("I2,1,0", "I2,1,1"))
    with pytest.raises(DataError, match=r"row 3 \(image I2\) doesn't have exactly one diagnosis"):
        convert_challenge(truth, groups, out)
    truth.write_text(TRUTH)
    groups.write_text(GROUPS.replace("I2,", "I3,"))
    with pytest.raises(DataError, match="no row for the image I2"):
        convert_challenge(truth, groups, out)
    groups.write_text(GROUPS + "I1,L3,histopathology\n")
    with pytest.raises(DataError, match="row 4 repeats the image I1"):
        convert_challenge(truth, groups, out)
