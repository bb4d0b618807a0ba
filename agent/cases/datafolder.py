"""A data folder: images anywhere under it and `cases.csv` at its root. Reading it touches no pixels.

Every line becomes a Row or a Refusal; a wrong line never stops the rest. Without `cases.csv` every image is a case.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path

from agent.cases.dicom import dicom_facts
from agent.cases.images import IMAGE_SUFFIXES, media_type
from agent.clock import parse_time, rfc3339
from agent.errors import HomeostatError

LIST = "cases.csv"
FROM_TAGS = ("patient_id", "site", "scanner", "acquired_at", "sex", "age")
OF_LATER_PARTS = ("text",)
TRUTHS = ("mask", "boxes")  # labels that are files
# A fact is whatever column nobody knows, but these would carry the patient's name into the store.
IDENTIFYING = ("patient", "name", "birth", "mrn", "accession", "address", "phone", "email")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case as its data folder describes it; None where the cell is empty or the column is not there.

    patient_id is raw, as written: it is for `split` and `pseudonym`, and for nothing else. acquired_at is RFC 3339 in
    UTC. facts holds sex, age and the columns that nobody knows, as text. truths: the files of the cells
    `mask` and `boxes`; wrong: why one names no file of the folder, which costs the label and not the case.
    """

    file: Path
    case_id: str
    patient_id: str
    site: str | None = None
    scanner: str | None = None
    acquired_at: str | None = None
    label: str | None = None
    truths: Mapping[str, Path] = field(default_factory=dict)
    wrong: Mapping[str, str] = field(default_factory=dict)
    study: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    line: int | None = None


@dataclass(frozen=True)
class Refusal:
    """A line that is no case, and why, in one sentence that names the line and never the patient."""

    line: int
    reason: str


@dataclass(frozen=True)
class Folder:
    """What a data folder holds: the cases, and the lines that were refused."""

    root: Path
    rows: list[Row]
    refused: list[Refusal]


def read_folder(path: Path, where: Sequence[str] = ()) -> Folder:
    """Reads the list, or finds the images; takes those for which `where` holds.

    DICOM headers are read where `cases.csv` lacks a column that the tags can fill. Raises HomeostatError where nothing
    in the folder can be a case: no folder, no images, no column `file`, a `where` that nothing fulfils.
    """
    if path.is_file() and (says := _other_list(path)):
        raise HomeostatError(says)
    if not path.is_dir():
        raise HomeostatError(f"{path} is no folder: a data folder holds images, and {LIST} at its root")
    root = path.resolve()
    conditions = [Condition.parse(text) for text in where]
    listed = root / LIST
    folder = _listed(root, conditions) if listed.is_file() else _found(root, conditions)
    if not folder.rows and not folder.refused:
        if conditions:
            raise HomeostatError(f"{path} has no case with {' and '.join(where)}: look at the values in its columns")
        raise HomeostatError(f"{path} holds no case: {LIST} has no lines" if listed.is_file() else _no_images(path))
    return folder


def sharing_bytes(rows: Sequence[Row]) -> list[set[str]]:
    """Groups of raw patient ids with an image file in common; only files of one size are read. Raises OSError."""
    by_size: dict[int, list[Row]] = {}
    for row in rows:
        by_size.setdefault(row.file.stat().st_size, []).append(row)
    patients: dict[bytes, set[str]] = {}
    for alike in by_size.values():
        for row in alike if len({row.patient_id for row in alike}) > 1 else ():
            with row.file.open("rb") as file:
                patients.setdefault(file_digest(file, "sha256").digest(), set()).add(row.patient_id)
    return [group for group in patients.values() if len(group) > 1]


# --where ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """One `--where`: a column that must, or must not, have a value."""

    column: str
    equal: bool
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        column, sign, value = text.partition("=")
        if not sign or not column.strip("! "):
            raise HomeostatError(f"--where {text!r} is not COLUMN=VALUE or COLUMN!=VALUE")
        return cls(column.removesuffix("!").strip(), not column.endswith("!"), value.strip())


def fulfils(cells: Mapping[str, str], conditions: Iterable[Condition]) -> bool:
    """Several `=` on one column: any of them. Different columns, and every `!=`: all must hold. An empty cell is ''."""
    wanted: dict[str, set[str]] = {}
    for condition in conditions:
        if condition.equal:
            wanted.setdefault(condition.column, set()).add(condition.value)
        elif cells.get(condition.column, "") == condition.value:
            return False
    return all(cells.get(column, "") in values for column, values in wanted.items())


def _known(conditions: Iterable[Condition], columns: Sequence[str], where: Path) -> None:
    for condition in conditions:
        if condition.column not in columns:
            there = (
                f"the columns are {', '.join(columns)}" if columns else f"it has no {LIST}, and no DICOM tags to go by"
            )
            raise HomeostatError(f"{where} has no column {condition.column!r} for --where: {there}")


# cases.csv ----------------------------------------------------------------------------------------------------------


def _listed(root: Path, conditions: Sequence[Condition]) -> Folder:
    path = root / LIST
    columns, records = read_csv(path)
    if "file" not in columns:
        raise HomeostatError(f"{path} has no column 'file': the columns are {', '.join(columns)}")
    absent = [column for column in FROM_TAGS if column not in columns]
    filled: set[str] = set()
    rows: list[Row] = []
    refused: list[Refusal] = []
    first_line: dict[str, int] = {}
    for line, cells in records:
        if isinstance(cells, str):
            refused.append(Refusal(line, f"line {line} of {LIST}: {cells}"))
            continue
        try:
            file = below(root, cells["file"])
        except ValueError as error:
            if fulfils(cells, [c for c in conditions if c.column in columns]):
                refused.append(Refusal(line, f"line {line} of {LIST}: {error}"))
            continue
        tags = _tags(file, absent)
        filled |= tags.keys()
        cells = {**tags, **cells}
        if not fulfils(cells, conditions):
            continue
        try:
            row = _row(cells, file, cells["file"], line, root)
            earlier = first_line.setdefault(row.case_id, line)
            if earlier != line:
                raise ValueError(f"its case id was used in line {earlier} already")
            rows.append(row)
        except ValueError as error:
            refused.append(Refusal(line, f"line {line} of {LIST}: {error}"))
    _known(conditions, [*columns, *filled], path)
    return Folder(root, rows, refused)


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str] | str]]]:
    """The header, and per record its first line's number with its cells by column, or with what is wrong with it.

    UTF-8 with or without a byte-order mark, comma or semicolon. A quotation mark that is never closed costs its own
    line and not the rest of the file. Raises HomeostatError where there is no header to go by.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = file.readlines()
    except UnicodeDecodeError:
        raise HomeostatError(f"{path} is not UTF-8 text: save it as CSV in UTF-8") from None
    except OSError as error:
        raise HomeostatError(f"{path} can't be read ({error.strerror}): check its name and permissions") from None
    head = lines[0] if lines else ""
    delimiter = ";" if ";" in head and "," not in head else ","
    columns = [cell.strip() for cell in next(csv.reader([head], delimiter=delimiter), [])]
    if not any(columns):
        raise HomeostatError(f"{path} has no header: its first line names the columns")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise HomeostatError(f"{path} has the column {twice[0]!r} twice: every column needs a name of its own")
    return columns, _records(lines, columns, delimiter)


def _records(lines: list[str], columns: list[str], delimiter: str) -> Iterator[tuple[int, dict[str, str] | str]]:
    start = 1
    while start < len(lines):
        reader = csv.reader((lines[i] for i in range(start, len(lines))), delimiter=delimiter, strict=True)
        begin, start, wrong = start, len(lines), ""
        read = 0
        while not wrong:
            first = begin + read
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                wrong = f"its quotation marks don't match ({error})"
            else:
                read = reader.line_num
                if len(cells) == len(columns):
                    yield first + 1, dict(zip(columns, map(str.strip, cells), strict=True))
                    continue
                if not any(cell.strip() for cell in cells):
                    continue
                wrong = f"it has {len(cells)} cells where the header has {len(columns)}"
            yield first + 1, wrong
            start = first + 1  # a stray quotation mark may have swallowed good lines: read on from the next one


def below(root: Path, name: str, column: str = "file") -> Path:
    """The file that a cell names, below the folder. Raises ValueError with what is wrong."""
    if not name:
        raise ValueError(f"the cell '{column}' is empty")
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root)
        is_file = inside and path.is_file()
    except (OSError, ValueError, RuntimeError):
        raise ValueError(f"the cell '{column}' is no path") from None
    if not inside:
        raise ValueError(f"its {column} lies outside the folder")
    if not is_file:
        raise ValueError(f"its {column} is not there")
    return path


def _row(cells: Mapping[str, str], file: Path, name: str, line: int | None, root: Path) -> Row:
    case_id = cells.get("case_id") or name
    known = {
        *("file", "case_id", "patient_id", "site", "scanner", "acquired_at", "label", "study"),
        *TRUTHS,
        *OF_LATER_PARTS,
    }
    truths, wrong = dict[str, Path](), dict[str, str]()
    for kind in (kind for kind in TRUTHS if cells.get(kind)):
        try:
            truths[kind] = below(root, cells[kind], kind)
        except ValueError as error:
            wrong[kind] = str(error)
    facts = {c: v for c, v in cells.items() if v and c not in known and not c.lower().startswith(IDENTIFYING)}
    return Row(
        file=file,
        case_id=case_id,
        patient_id=cells.get("patient_id") or case_id,
        site=cells.get("site") or None,
        scanner=cells.get("scanner") or None,
        acquired_at=_time(cells.get("acquired_at")),
        label=cells.get("label") or None,
        truths=truths,
        wrong=wrong,
        study=cells.get("study") or None,
        facts=facts,
        line=line,
    )


def _time(text: str | None) -> str | None:
    try:
        return rfc3339(parse_time(text)) if text else None
    except (ValueError, OverflowError):
        raise ValueError("acquired_at is no time as in 2026-03-01T08:15:00Z or 2026-03-01") from None


# a folder without a list --------------------------------------------------------------------------------------------


def _found(root: Path, conditions: Sequence[Condition]) -> Folder:
    for path in sorted(root.glob("*.json")):
        if says := _other_list(path):
            raise HomeostatError(says)
    return unlisted(root, image_files(root), conditions)


def unlisted(root: Path, files: Iterable[Path], conditions: Sequence[Condition] = ()) -> Folder:
    """Every file is a case, by its path below `root`; what there is to know of it stands in its DICOM tags."""
    rows: list[Row] = []
    filled: set[str] = set()
    for file in files:
        tags = _tags(file, FROM_TAGS)
        filled |= tags.keys()
        if fulfils(tags, conditions):
            rows.append(_row(tags, file, file.relative_to(root).as_posix(), None, root))
    _known(conditions, sorted(filled), root)
    return Folder(root, rows, [])


def image_files(root: Path) -> list[Path]:
    """Files that are images by content or by name, sorted; hidden ones are left out, links are not followed."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if name.startswith(".") or file.is_symlink() or not file.is_file():
                continue
            if file.name.lower().endswith(IMAGE_SUFFIXES) or _sniffed(file):
                found.append(file)
    return sorted(found)


def _sniffed(file: Path) -> str:
    try:
        return media_type(file)
    except OSError:
        return "unknown"  # to be refused by whoever opens it, with the reason


def _tags(file: Path, wanted: Sequence[str]) -> dict[str, str]:
    if not wanted or _sniffed(file) != "application/dicom":
        return {}
    facts = dicom_facts(file)
    return {name: facts[name] for name in (*wanted, "study") if name in facts}


def _other_list(path: Path) -> str:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError):
        return ""
    if isinstance(content, dict) and "images" in content and "annotations" in content:
        return f"{path} is a COCO list, which a later part reads: write the cases into {LIST} for now"
    if isinstance(content, dict) and {"training", "validation", "test"} & content.keys():
        return f"{path} is a MONAI datalist, which a later part reads: write the cases into {LIST} for now"
    return ""


def _no_images(path: Path) -> str:
    return (
        f"{path} holds no images: a data folder has DICOM, NIfTI, PNG, JPEG, TIFF or NPY files, and {LIST} at its root"
    )
