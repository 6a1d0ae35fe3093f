"""Is a hostile string harmless once it was cleaned, and a harmless one left alone?"""

import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divergence_doctor._clean import argument, clean

HOSTILE = {
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "\x1b]8;;http://evil\x07click\x1b]8;;\x07": r"\x1b]8;;http://evil\x07click\x1b]8;;\x07",
    "\x1b]52;c;cm0gLXJm\x07": r"\x1b]52;c;cm0gLXJm\x07",
    "\x9b31m": r"\x9b31m",
    "a\0b": r"a\x00b",
    "one\ntwo\r\n\tthree": r"one\x0atwo\x0d\x0a\x09three",
    "user\u202egnp.exe": r"user\u202egnp.exe",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "line\u2028paragraph\u2029": r"line\u2028paragraph\u2029",
    "lone \ud800 surrogate": r"lone \ud800 surrogate",
    "private \ue000\U000f0000": r"private \ue000\U000f0000",
    "tag \U000e0041": r"tag \U000e0041",
    "backspace\b\b\bgone\x7f": r"backspace\x08\x08\x08gone\x7f",
}
HARMLESS = [
    "",
    "encoder/conv2d_3/kernel:0",
    "größe/вес/权重/🙂",
    "<b>&amp;</b> | `code` | $x$ | =1+1",
    "C:\\new\\table",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_cannot_be_seen_is_spelled_out(text):
    assert clean(text) == HOSTILE[text]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_can_be_seen_stays(text):
    assert clean(text) == text


def test_text_is_composed():
    assert clean("u\u0308ber") == "\u00fcber"


def test_lines_stay_where_they_are_wanted():
    assert clean("one\ntwo\r\n", multiline=True) == "one\ntwo\\x0d\n"


def test_long_text_loses_its_middle():
    assert clean("a" * 50 + "b" * 50, limit=11) == "aaaaa…bbbbb"
    assert clean("a" * 500_000 + "\x1b" * 500_000, limit=10) == r"aaaa…b\x1b"


@given(st.text(st.characters()), st.integers(3, 40), st.booleans())
def test_whatever_comes_is_printable_short_and_stays_as_it_is(text, limit, multiline):
    cleaned = clean(text, limit, multiline=multiline)
    assert len(cleaned) <= limit
    assert all(
        unicodedata.category(character)[0] != "C" or (multiline and character == "\n")
        for character in cleaned
        if unicodedata.category(character) != "Cn"
    )
    cleaned.encode("utf-8")
    assert clean(cleaned, limit, multiline=multiline) == cleaned


def test_a_path_in_a_command_is_whole_and_one_word_however_long_it_is():
    path = "/home/a folder" + "/deeper" * 80 + "/it's"
    assert shlex.split(f"doctor salvage {argument(path)}") == ["doctor", "salvage", path]
    assert "\x1b" not in argument("/home/\x1b[2J")
