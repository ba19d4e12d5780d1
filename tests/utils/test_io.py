"""Lines of text files, whatever characters they hold."""

import pytest

from mossrepro.utils.errors import DataError
from mossrepro.utils.io import read_lines


def test_only_newlines_end_a_line(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes("\ufeffone\u2028two\u0085three\r\n\x0bfour\x0c\x1cfive\n\nsix".encode())
    assert read_lines(path) == ["one\u2028two\u0085three", "\x0bfour\x0c\x1cfive", "", "six"]
    assert read_lines(path, whole=True) == ["one\u2028two\u0085three", "\x0bfour\x0c\x1cfive", ""]
    path.write_bytes(b"")
    assert read_lines(path) == read_lines(path, whole=True) == []


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "lines").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="lines: not UTF-8 text"):
        read_lines(tmp_path / "lines")
