"""A folder of small odd files, each with the right answer or the refusal expected.

    python -m tests.odd_files FOLDER

writes them and prints what each of them is read as; `test_odd_files.py` walks through them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import lzma
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.cli.tables import add_table_options, reading
from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.data.series import read_series
from gpu_lstm.errors import InputError


@dataclass(frozen=True)
class Odd:
    """A file, how a command is told to read it, and what has to come of it."""

    name: str
    content: bytes
    # (rows, columns) of numbers, or for sequences of (label, steps); or words of the refusal, all in it
    expected: Any
    options: str = ""
    told: tuple[str, ...] = ()  # in what is told, beside the rows
    left: dict[str, str] = field(default_factory=dict)  # columns left, and how the reason begins
    columns: tuple[str, ...] = ()  # asked for by name
    kind: str = "series"

    def read(self, path: Path) -> Any:
        """Read it as the commands do."""
        parser = argparse.ArgumentParser()
        add_table_options(parser)
        how = reading(vars(parser.parse_args(self.options.split())))
        columns = list(self.columns) or None
        if self.kind == "series":
            return read_series(path, columns, how)
        return read_sequences(path, columns=columns, reading=how)


def text(content: str, encoding: str = "utf-8") -> bytes:
    """Bytes of a text."""
    return content.encode(encoding)


def saved(array: Any, pickled: bool = False) -> bytes:
    """Bytes of a .npy file."""
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=pickled)
    return memory.getvalue()


def packed(**arrays: Any) -> bytes:
    """Bytes of a .npz file."""
    memory = io.BytesIO()
    np.savez(memory, **arrays)
    return memory.getvalue()


GERMAN = "Datum;Verbrauch;Temperatur °C\n01.03.2024 00:00;1.234,50;-2,5\n01.03.2024 01:00;987,00;-3,0\n"
GERMAN_VALUES = [[1234.5, -2.5], [987.0, -3.0]]
PLAIN = "time,a,b\n2024-01-01,1.5,-2\n2024-01-02,2.5,3e2\n"
VALUES = [[1.5, -2.0], [2.5, 300.0]]
COUNTED = "".join(f"{n},{n % 7 + 0.5}\n" for n in range(12))
COLUMN = [[n % 7 + 0.5] for n in range(12)]

FILES = (
    # separators, decimal marks, marks between thousands
    Odd(
        "excel_german.csv",
        text(GERMAN, "cp1252"),
        GERMAN_VALUES,
        told=("semicolons", "decimal commas", "thousands", "Windows-1252"),
    ),
    Odd(
        "excel_german_utf8.csv",
        b"\xef\xbb\xbf" + text(GERMAN.replace("\n", "\r\n")),
        GERMAN_VALUES,
        told=("semicolons",),
    ),
    Odd("excel_unicode.txt", text(PLAIN.replace(",", "\t"), "utf-16"), VALUES, told=("tabs", "UTF-16")),
    Odd("utf16_without_mark.csv", text(PLAIN, "utf-16-le"), VALUES, told=("UTF-16-LE",)),
    Odd("utf16_big.csv", text(PLAIN, "utf-16-be"), VALUES, told=("UTF-16-BE",)),
    Odd(
        "french.csv",
        text("jour;kWh\nlundi;1 234,5\nmardi;12 345,0\n"),
        [[1234.5], [12345]],
        told=("decimal commas", "thousands"),
    ),
    Odd("french_narrow.csv", text("jour;kWh\nlundi;1\u202f234,5\nmardi;12\u00a0345\n"), [[1234.5], [12345]]),
    Odd("swiss.csv", text("Tag;CHF\nMo;1'234.50\nDi;12'345.00\n"), [[1234.5], [12345]], told=("thousands",)),
    Odd(
        "english_money.csv",
        text('day,price\nMon,"£6,418.70"\nTue,"£1,200.00"\n'),
        [[6418.7], [1200]],
        told=("£", "thousands"),
    ),
    Odd(
        "percent.csv",
        text("day,share\nMon,12.5 %\nTue,7 %\n"),
        [[12.5], [7]],
        told=("share: numbers without their unit, %",),
    ),
    Odd("units_in_cells.csv", text("day,used\nMon,5.2 kWh\nTue,4.1 kWh\n"), [[5.2], [4.1]], told=("kWh",)),
    Odd(
        "units_differ.csv",
        text("day,used\nMon,5.2 kWh\nTue,410 Wh\nWed,1 kWh\n"),
        ("line 3", "'used'", "410 Wh", "kWh"),
    ),
    Odd("bars.txt", text(PLAIN.replace(",", "|")), VALUES, told=("bars",)),
    Odd("spaces.txt", text("t   a  b\n1  1.5 -2\n 2 2.5  3e2\n"), [[1, 1.5, -2], [2, 2.5, 300]], told=("spaces",)),
    Odd(
        "tabs.tsv",
        text("a\tb\n1,5\t2,25\n2,5\t\n".replace("\t\n", "\t1\n")),
        [[1.5, 2.25], [2.5, 1]],
        told=("tabs", "decimal commas"),
    ),
    Odd("comma_or_thousand.csv", text('day,v\na,"1,234"\nb,"2,345"\n'), ("line 2", "'v'", "1,234", "--decimal")),
    Odd("comma_or_thousand_said.csv", text('day,v\na,"1,234"\nb,"2,345"\n'), [[1234], [2345]], "--decimal ."),
    Odd("comma_or_thousand_said_comma.csv", text('day,v\na,"1,234"\nb,"2,345"\n'), [[1.234], [2.345]], "--decimal ,"),
    Odd("thousand_by_another_cell.csv", text('day,v,w\na,"1,234",0.5\nb,"2,345",0.25\n'), [[1234, 0.5], [2345, 0.25]]),
    Odd("point_or_thousand.csv", text("day;v\na;1.234\nb;2.345\n"), ("line 2", "'v'", "1.234", "--decimal")),
    Odd("point_or_thousand_said.csv", text("day;v\na;1.234\nb;2.345\n"), [[1234], [2345]], "--thousands ."),
    Odd("three_decimals.csv", text("day,v\na,1.234\nb,2.345\n"), [[1.234], [2.345]]),
    Odd("both_marks.csv", text('day,v,w\na,"1,5",1.5\nb,"2,5",2.5\n'), ("'v' is '1,5'", "'w' is '1.5'", "--decimal")),
    Odd("exponents.csv", text("v;w\n1,5E+03;2\n-2,5e-1;3\n"), [[1500, 2], [-0.25, 3]]),
    Odd("minus_signs.csv", text("day,v\na,\u22125.5\nb,+3\n"), [[-5.5], [3]]),
    Odd("accounting.csv", text('day,v\na,5.00\nb,"(3.00)"\nc,2.5\n'), ("line 3", "'v'", "(3.00)", "expected a number")),
    Odd("one_column_commas.csv", text("v\n1,5\n2,5\n"), ("--sep", "--decimal")),
    Odd("one_column_commas_said.csv", text("v\n1,5\n2,5\n"), [[1.5], [2.5]], "--decimal ,"),
    Odd("quoted_numbers.csv", text('"t";"v"\n"a";"1.5"\n"b";"2.5"\n'), [[1.5], [2.5]]),
    Odd("two_separators.csv", text("a,b;c\n1,2;3\n4,5;6\n"), ("commas", "semicolons", "--sep")),
    Odd("separator_said.csv", text("a:b\n1:2\n3:4\n"), [[1, 2], [3, 4]], "--sep :"),
    # what is above and below the numbers
    Odd(
        "preamble.csv",
        text("Logger 7\nexported 2024-05-01\n\n" + PLAIN),
        VALUES,
        told=("3 lines before the header skipped",),
    ),
    Odd("preamble_of_cells.csv", text("Logger,7,north\nKind,x,y\n" + PLAIN), ("--header", "--skip")),
    Odd(
        "preamble_said.csv", text("Logger,7,north\nKind,x,y\n" + PLAIN), VALUES, "--skip 2", told=("header in line 3",)
    ),
    Odd(
        "unit_row.csv",
        text("time,T,P\n,°C,hPa\n2024-01-01,1.5,990\n2024-01-02,2,991\n"),
        [[1.5, 990], [2, 991]],
        told=("line 2 has units", "°C, hPa"),
    ),
    Odd(
        "unit_row_brackets.csv",
        text("T;wind\n[°C];[m/s]\n1,5;3\n2,5;4\n"),
        [[1.5, 3], [2.5, 4]],
        told=("line 2 has units",),
    ),
    Odd("first_row_unknown.csv", text("v,flag\nNA,A\n1,B\n2,A\n"), ("'v'", "line 2", "--missing")),
    Odd("first_row_dashes.csv", text("v,w\n-,-\n1,3\n2,4\n"), ("'v'", "line 2", "--missing")),
    Odd(
        "second_header.csv",
        text("T,wind\nmean value,highest value\n1.5,3\n2.5,4\n"),
        ("line 2", "mean value", "--units"),
    ),
    Odd(
        "second_header_said.csv",
        text("T,wind\nmean value,highest value\n1.5,3\n2.5,4\n"),
        [[1.5, 3], [2.5, 4]],
        "--units",
    ),
    Odd(
        "comments.csv",
        text("# station 5\n# made by hand\na,b\n1,2\n# sensor changed\n3,4\n"),
        [[1, 2], [3, 4]],
        told=("begin with #",),
    ),
    Odd("numpy_savetxt.txt", text("# a b\n1.5 2\n2.5 3\n"), [[1.5, 2], [2.5, 3]], told=("names in a comment",)),
    Odd("percent_comments.csv", text("% made by hand\na,b\n1,2\n3,4\n"), [[1, 2], [3, 4]], "--comment %"),
    Odd("total_row.csv", text(PLAIN + "Total,4,298\n"), ("line 4", "Total", "--skip-end 1")),
    Odd("total_row_said.csv", text(PLAIN + "Total,4,298\n"), VALUES, "--skip-end 1", told=("last 1 rows skipped",)),
    Odd("no_header.csv", text("2024-01-01,1.5\n2024-01-02,2.5\n"), [[1.5], [2.5]], told=("no header",)),
    Odd("no_header_whole.csv", text("1,2\n3,4\n"), ("first row is '1, 2'", "--header none")),
    Odd("no_header_said.csv", text("1,2\n3,4\n"), [[1, 2], [3, 4]], "--header none"),
    Odd("years_as_names.csv", text("place,1990,1991\na,5,6\nb,7,8\n"), ("--header",)),
    Odd("years_as_names_said.csv", text("place,1990,1991\na,5,6\nb,7,8\n"), [[5, 6], [7, 8]], "--header first"),
    Odd("years_asked_for.csv", text("place,1990,1991\na,5,6\nb,7,8\n"), [[6], [8]], columns=("1991",)),
    # rows and cells
    Odd("trailing_separators.csv", text("a;b;\n1;2;\n3;4;\n"), [[1, 2], [3, 4]], left={"column 3": "no name"}),
    Odd("trailing_without_header.csv", text("a;b\n1;2;\n3;4;\n"), [[1, 2], [3, 4]], left={"column 3": "no name"}),
    Odd("ragged_short.csv", text("a,b,c\n1,2,3\n4,5\n6,7,8\n"), ("line 3", "2 cells", "expected 3")),
    Odd("ragged_long.csv", text("a,b,c\n1,2,3\n4,5,6,7\n"), ("line 3", "4 cells", "expected 3")),
    Odd("ragged_first.csv", text("a,b,c\n1,2,3,4\n4,5,6,7\n"), ("line 2", "4 cells", "expected 3")),
    Odd("same_names.csv", text("a,a\n1,2\n3,4\n"), ("2 columns called 'a'",)),
    Odd("blank_lines.csv", text("a,b\n\n1,2\n\n\n3,4\n\n"), [[1, 2], [3, 4]]),
    Odd("blank_cells.csv", text("v\n1\n\n3\n\n"), [[1], [3]], told=("1 blank lines skipped",)),
    Odd("carriage_returns.csv", text("a,b\r1,2\r3,4\r"), [[1, 2], [3, 4]]),
    Odd(
        "missing_words.csv", text("t,a,b\nx,1,NA\ny,n/a,2\nz,-,NULL\n"), ("'a'", "line 3", "'b'", "line 2", "--missing")
    ),
    Odd("first_row_missing.csv", text("t,target\nx,NA\ny,2\nz,3\n"), ("'target'", "line 2", "--missing")),
    Odd("infinite.csv", text("t,a\nx,1\ny,inf\n"), ("line 3", "'a' is inf", "finite")),
    Odd("underscores.csv", text("t,a\nx,1_0\ny,2_0\n"), ("no numeric column", "1_0")),
    Odd("other_digits.csv", text("t,a,b\nx,\u0661,1\ny,\uff12,2\n"), [[1], [2]], left={"a": "text"}),
    Odd("truth.csv", text("t,door,T\nx,True,1\ny,False,2\n"), [[1, 1], [0, 2]], told=("true and false are 1 and 0",)),
    Odd("yes_and_no.csv", text("t,door,T\nx,yes,1\ny,no,2\n"), [[1], [2]], left={"door": "text, such as 'yes'"}),
    Odd("mixed_column.csv", text("t,a\nx,1\ny,broken\nz,3\n"), ("line 3", "'a' is 'broken'", "expected a number")),
    Odd(
        "more_text.csv",
        text("t,a,b\nx,1,1\ny,broken,2\nz,off,3\n"),
        [[1], [2], [3]],
        left={"a": "more text than numbers", "t": "text"},
    ),
    Odd("row_numbers.csv", text("No,v\n" + COUNTED), COLUMN, left={"No": "row numbers from 0"}),
    Odd("pandas_index.csv", text(",v\n" + COUNTED), COLUMN, left={"column 1": "no name"}),
    Odd(
        "years.csv",
        text("year,v\n" + "".join(f"{2001 + n},{n % 7 + 0.5}\n" for n in range(12))),
        COLUMN,
        told=("time: year",),
    ),
    Odd(
        "constant.csv",
        text("t,a,b\n" + "".join(f"x{n},{n % 7 + 0.5},5\n" for n in range(12))),
        [[*row, 5] for row in COLUMN],
        told=("the same in all rows: b",),
    ),
    Odd(
        "huge_numbers.csv",
        text("id,v\n" + "".join(f"{9007199254740993 + n * 7},{n % 7 + 0.5}\n" for n in range(12))),
        COLUMN,
        left={"id": "whole numbers too large"},
    ),
    Odd("empty_column.csv", text("t,a,b\nx,1,\ny,2,\n"), [[1], [2]], left={"b": "empty"}),
    Odd("long_cell.csv", text("t,a\nx,1\n" + "y" * 300_000 + ",2\n"), ("after line 2", "larger than field limit")),
    Odd("open_quote.csv", text('t,a\nx,1\n"y,2\n'), ("line 3", "1 cells")),
    Odd("nul.csv", b"t,a\nx,1\ny\x00,2\n", ("line 3", "NUL", "--encoding")),
    Odd("chinese.csv", text("\u6e29\u5ea6,v\n1.5,2\n2.5,3\n", "gb18030"), ("not UTF-8", "--encoding")),
    Odd(
        "chinese_said.csv",
        text("\u6e29\u5ea6,v\n1.5,2\n2.5,3\n", "gb18030"),
        [[1.5, 2], [2.5, 3]],
        "--encoding gb18030",
    ),
    Odd("empty.csv", b"", ("is empty",)),
    Odd("only_header.csv", text("a,b\n"), ("no rows after its header",)),
    Odd("only_text.csv", text("a,b\nx,y\nz,w\n"), ("no numeric column", "such as 'x'")),
    Odd("one_column.csv", text("v\n1\n2\n"), [[1], [2]]),
    # other kinds of files
    Odd("packed.csv.gz", gzip.compress(text(PLAIN)), VALUES),
    Odd("packed.csv.xz", lzma.compress(text(PLAIN)), VALUES),
    Odd("cut_off.csv.gz", gzip.compress(text(PLAIN))[:-4], ("can't be read",)),
    Odd("one.npy", saved(np.array([1.5, 2.5])), [[1.5], [2.5]]),
    Odd("two.npy", saved(np.array([[1, 2], [3, 4]], np.int16)), [[1, 2], [3, 4]]),
    Odd("three.npy", saved(np.zeros((2, 3, 4))), ("shape (2, 3, 4)",)),
    Odd("records.npy", saved(np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f4")])), [[1, 2.5], [3, 4.5]]),
    Odd("objects.npy", saved(np.array([1, "a"], object), pickled=True), ("pickled objects",)),
    Odd("several.npz", packed(a=np.array([1.0, 2]), b=np.array([3, 4])), [[1, 3], [2, 4]]),
    Odd("of_different_lengths.npz", packed(a=np.zeros(3), b=np.zeros(4)), ("different lengths", "a 3, b 4")),
    Odd("spreadsheet.xlsx", b"PK\x03\x04", ("spreadsheet", "CSV")),
    # sequences with labels
    Odd(
        "labels.csv",
        text("series;label;v\n1;ok;1,5\n1;ok;2,5\n2;none;3,5\n"),
        [("ok", 2), ("none", 1)],
        kind="classify",
    ),
    Odd(
        "labels_as_numbers.csv",
        text("series,label,v\n1,1,1.5\n2,1.0,2.5\n3, 2,3.5\n"),
        [("1", 1), ("1", 1), ("2", 1)],
        kind="classify",
    ),
    Odd(
        "label_missing.csv",
        text("series,label,v\n1,a,1.5\n2,NA,2.5\n"),
        ("line 3", "'label' is 'NA'", "expected a label"),
        kind="classify",
    ),
    Odd(
        "series_missing.csv",
        text("series,label,v\n1,a,1.5\n,b,2.5\n"),
        ("line 3", "'series' is empty"),
        kind="classify",
    ),
    Odd(
        "label_changes.csv",
        text("series,label,v\n1,a,1.5\n1,b,2.5\n"),
        ("line 3", "'label' changes within series '1'"),
        kind="classify",
    ),
)


def write(folder: Path) -> list[tuple[Odd, Path]]:
    """Write all of them to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for odd in FILES:
        (folder / odd.name).write_bytes(odd.content)
    return [(odd, folder / odd.name) for odd in FILES]


def check(odd: Odd, path: Path) -> str:
    """Read it, and return what came of it in a line. Raises AssertionError where that is not what is expected."""
    try:
        data = odd.read(path)
    except InputError as error:
        said = str(error).replace(str(path), path.name)
        assert isinstance(odd.expected, tuple), said
        assert all(words in said for words in odd.expected), said
        return f"refused: {said}"
    said = " / ".join(data.told).replace(str(path), path.name)
    if odd.kind == "series":
        found: Any = data.values.tolist()
    else:
        found = [(data.classes[k], n) for k, n in zip(data.labels, data.lengths.tolist(), strict=True)]
    assert found == odd.expected, f"{found}; {said}"
    assert all(words in said for words in odd.told), said
    assert all(data.left.get(name, "not left").startswith(why) for name, why in odd.left.items()), data.left
    return f"read: {said}; columns {', '.join(data.names)}" + (f"; left {data.left}" if data.left else "")


def main() -> int:
    """Write, read and print them; the exit status is how many went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    wrong = 0
    for odd, path in write(parser.parse_args().folder):
        try:
            line = check(odd, path)
        except AssertionError as error:
            wrong, line = wrong + 1, f"WRONG: {error}"
        print(f"{' '.join((odd.name, odd.options)):36} {line}")
    print(f"{len(FILES)} files, {wrong} wrong")
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main())
