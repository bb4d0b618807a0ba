"""The data folder: a wrong line costs itself and nothing else, and `--where` means what the contract says."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taking import write_dicom, write_list, write_png

from agent.cases.datafolder import Condition, fulfils, read_csv, read_folder, sharing_bytes
from agent.errors import HomeostatError


def listed(root: Path, text: str, images: int = 4) -> Path:
    for i in range(images):
        write_png(root / f"{i}.png", i)
    (root / "cases.csv").write_text(text)
    return root


def test_columns_become_what_the_contract_says(tmp_path: Path) -> None:
    """Known columns, defaults, unknown columns as facts, empty cells as unknown, later parts' columns left aside."""
    text = (
        "file,case_id,patient_id,site,scanner,acquired_at,sex,age,label,coil,text,mask\n"
        "0.png,c0,p0,north,X1,2026-03-01T08:00:00+01:00,F,61,benign,8ch,a report,m.png\n"
        "1.png,,,,,,,,,,,\n"
    )
    first, second = read_folder(listed(tmp_path, text)).rows
    assert (first.case_id, first.patient_id, first.site, first.label) == ("c0", "p0", "north", "benign")
    assert first.acquired_at == "2026-03-01T07:00:00.000000Z"
    assert first.facts == {"sex": "F", "age": "61", "coil": "8ch"}
    assert (second.case_id, second.patient_id, second.site, second.acquired_at) == ("1.png", "1.png", None, None)
    assert second.facts == {}


def test_columns_that_name_a_patient_are_no_facts(tmp_path: Path) -> None:
    """A column such as patient_name stays out of the store."""
    text = "file,patient_name,PatientBirthDate,mrn\n0.png,Jane Canary,1970-01-01,4711\n"
    assert read_folder(listed(tmp_path, text)).rows[0].facts == {}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nothere.png,c9,", "not there"),
        ("../outside.png,c9,", "outside"),
        ("/etc/passwd,c9,", "outside"),
        (",c9,", "empty"),
        ("1.png,c0,", "used in line 2"),
        ("1.png,c9,yesterday", "no time"),
        ("1.png,c9", "2 cells"),
        ("1.png,c9,,,", "5 cells"),
        ('"1.png,c9,', "quotation"),
        ('1"x".png,"c9"y,', "quotation"),
        ("a\0b,c9,", "file"),
    ],
)
def test_a_wrong_line_is_refused_by_number_and_the_rest_goes_on(tmp_path: Path, line: str, says: str) -> None:
    """The lines before and after it are cases; its refusal names the line."""
    write_png(tmp_path.parent / "outside.png", 9)
    folder = read_folder(listed(tmp_path, f"file,case_id,acquired_at\n0.png,c0,\n{line}\n2.png,c2,\n3.png,c3,\n"))
    assert [row.case_id for row in folder.rows] == ["c0", "c2", "c3"]
    (refusal,) = folder.refused
    assert refusal.line == 3
    assert refusal.reason.startswith("line 3 of cases.csv: ")
    assert says in refusal.reason


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    """A path is judged by where it ends, not by how it is written."""
    write_png(tmp_path / "secret.png", 1)
    root = tmp_path / "folder"
    root.mkdir()
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    assert "outside" in read_folder(listed(root, "file\nlink.png\n")).refused[0].reason


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no header"),
        (b"name,label\na,b\n", "no column 'file'"),
        (b"file,file\n", "twice"),
        (b"file\n", "no lines"),
        (b"file\n\xff\xfe\n", "UTF-8"),
    ],
)
def test_a_list_that_is_wrong_as_a_whole_is_an_error(tmp_path: Path, content: bytes, says: str) -> None:
    """Where no line can be a case there is one sentence that names the file."""
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(HomeostatError, match=says) as error:
        read_folder(tmp_path)
    assert "cases.csv" in str(error.value)


def test_byte_order_mark_and_semicolons_are_read(tmp_path: Path) -> None:
    """What a spreadsheet in a European locale writes is read."""
    write_png(tmp_path / "0.png", 0)
    (tmp_path / "cases.csv").write_bytes("\ufefffile;site\r\n0.png;Nord, Süd\r\n".encode())
    assert read_folder(tmp_path).rows[0].site == "Nord, Süd"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("dataset.json", '{"training": [], "validation": []}', "MONAI"),
        ("i.json", '{"images": [], "annotations": []}', "COCO"),
    ],
)
def test_other_lists_say_that_a_later_part_reads_them(tmp_path: Path, name: str, content: str, says: str) -> None:
    """As the folder's list, or named itself."""
    (tmp_path / name).write_text(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(HomeostatError, match=says):
            read_folder(path)


def test_an_empty_or_missing_folder_is_an_error(tmp_path: Path) -> None:
    """Zero images are not zero cases silently."""
    (tmp_path / "README.txt").write_text("nothing here")
    with pytest.raises(HomeostatError, match="no images"):
        read_folder(tmp_path)
    with pytest.raises(HomeostatError, match="no folder"):
        read_folder(tmp_path / "missing")


def test_without_a_list_every_image_is_a_case(tmp_path: Path) -> None:
    """By content or by name, below any folder; hidden files and texts are none; broken ones are for the intake."""
    write_png(tmp_path / "a" / "x.png", 1)
    write_png(tmp_path / "no_suffix", 2)
    write_png(tmp_path / ".hidden.png", 3)
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "README.txt").write_text("text")
    assert [row.case_id for row in read_folder(tmp_path).rows] == ["a/x.png", "broken.png", "no_suffix"]


def test_patients_with_the_same_file_are_found(tmp_path: Path) -> None:
    """By bytes and not by name or size: the split of `fit` must not part them."""
    text = "file,patient_id\n0.png,a\n1.png,b\n2.png,b\n3.png,c\n4.png,d\n"
    listed(tmp_path, text, images=5)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "3.png").write_bytes(bytes(reversed((tmp_path / "4.png").read_bytes())))
    assert sharing_bytes(read_folder(tmp_path).rows) == [{"a", "b"}]


def test_dicom_tags_fill_absent_columns_only(tmp_path: Path) -> None:
    """Site, scanner, time, sex, age and patient come of the header where the list has no such column."""
    tags = {
        "InstitutionName": "North", "Manufacturer": "Acme", "ManufacturerModelName": "One", "PatientID": "P7",
        "PatientSex": "F", "PatientAge": "061Y", "AcquisitionDate": "20260301", "AcquisitionTime": "081500",
        "StudyInstanceUID": "1.2.3", "PatientName": "Canary^Jane",
    }  # fmt: skip
    write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), **tags)
    write_list(tmp_path, [{"file": "a.dcm", "site": "", "label": "benign"}])
    (row,) = read_folder(tmp_path).rows
    assert row.site is None
    assert (row.scanner, row.patient_id, row.acquired_at) == ("Acme One", "P7", "2026-03-01T08:15:00.000000Z")
    assert row.facts == {"sex": "F", "age": "61"}
    assert "Canary" not in repr(row)
    (tmp_path / "cases.csv").unlink()
    assert [row.site for row in read_folder(tmp_path, ["site=North", "sex=F"]).rows] == ["North"]


# --where ------------------------------------------------------------------------------------------------------------

CELLS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "x", "y", "z"]), max_size=3)
CONDITIONS = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from(["", "x", "y", "z"])), max_size=6
)


@settings(deadline=None)
@given(CELLS, CONDITIONS)
def test_where_means_any_of_one_column_and_all_of_different_ones(
    cells: dict[str, str], conditions: list[tuple[str, bool, str]]
) -> None:
    """The contract's sentence, spelt out per column, agrees with `fulfils` on every combination."""
    expected = True
    for column in "abc":
        cell = cells.get(column, "")
        wanted = [value for name, equal, value in conditions if name == column and equal]
        unwanted = [value for name, equal, value in conditions if name == column and not equal]
        expected &= (not wanted or cell in wanted) and cell not in unwanted
    assert fulfils(cells, [Condition(*condition) for condition in conditions]) == expected


def test_where_is_parsed_at_the_first_sign() -> None:
    """Values may hold further signs."""
    assert Condition.parse("site=a=b") == Condition("site", True, "a=b")
    assert Condition.parse("site != a") == Condition("site", False, "a")
    assert Condition.parse("site=!x") == Condition("site", True, "!x")
    for wrong in ("site", "=x", "!=x"):
        with pytest.raises(HomeostatError, match="COLUMN"):
            Condition.parse(wrong)


def test_where_takes_part_of_a_folder_and_names_what_it_does_not_know(tmp_path: Path) -> None:
    """An unknown column is an error with the columns there are; nothing found is an error too."""
    listed(tmp_path, "file,site,label\n0.png,a,x\n1.png,b,x\n2.png,c,y\n3.png,,y\n")
    assert [row.site for row in read_folder(tmp_path, ["site=a", "site=b", "label!=y"]).rows] == ["a", "b"]
    assert [row.case_id for row in read_folder(tmp_path, ["site="]).rows] == ["3.png"]
    with pytest.raises(HomeostatError, match="file, site, label"):
        read_folder(tmp_path, ["hospital=a"])
    with pytest.raises(HomeostatError, match="no column 'scanner'"):
        read_folder(tmp_path, ["scanner=a"])
    with pytest.raises(HomeostatError, match="no case with"):
        read_folder(tmp_path, ["site=nowhere"])


# the parser ---------------------------------------------------------------------------------------------------------

CELL = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=8))
def test_what_csv_writes_is_read_back(tmp_path: Path, table: list[tuple[str, str]]) -> None:
    """Quoting, line breaks in cells, any character: every record comes back with its first line's number."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    lines = []
    for cells in table:
        before = out.getvalue()
        lines.append(len(io.StringIO(before, newline="").readlines()) + 1)
        writer.writerow(cells)
    path = tmp_path / "t.csv"
    path.write_bytes(out.getvalue().encode())
    _, records = read_csv(path)
    expected = [(line, {"a": a.strip(), "b": b.strip()}) for line, (a, b) in zip(lines, table, strict=True)]
    assert list(records) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.text(alphabet='ab,;"\n\r ', max_size=60))
def test_any_text_is_read_or_refused_line_by_line(tmp_path: Path, text: str) -> None:
    """No text makes the parser fail or stop, and the good line at the end is always reached."""
    path = tmp_path / "t.csv"
    path.write_bytes(f"x,y\n{text}\nlast,line\n".encode())
    _, records = read_csv(path)
    found = list(records)
    numbers = [line for line, _ in found]
    assert numbers == sorted(set(numbers))
    assert found[-1][1] == {"x": "last", "y": "line"}
