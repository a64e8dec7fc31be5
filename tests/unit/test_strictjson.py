"""Strict JSON: each fault has its sentence, nothing else ever comes out, and the canonical form is one spelling."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.strictjson import canonical, parse_object

DIGITS = "9" * 101

FAULTS: list[tuple[bytes, str]] = [
    (b"", "it is empty"),
    (b" \n", "it is empty"),
    (b'\xef\xbb\xbf{"a":1}', "it starts with a byte order mark"),
    (b'{"a":"\xff"}', "it is not UTF-8 at byte 6"),
    ('{"a":1}'.encode("utf-16"), "it is not UTF-8 at byte 0"),
    (b'{"a":"\xed\xa0\x80"}', "it is not UTF-8 at byte 6"),
    (b'{"prompt":"a","prompt":"b"}', "duplicate key 'prompt'"),
    (b'{"a":{"b":1,"\\u0062":2}}', "duplicate key 'b'"),
    (b'{"a":NaN}', "NaN is not JSON"),
    (b'{"a":-Infinity}', "-Infinity is not JSON"),
    (b'{"a":1e999}', "a number is too large"),
    (b'{"a":"\\ud800"}', "a string holds a lone surrogate"),
    (b'{"\\uDfff":1}', "a string holds a lone surrogate"),
    (b'{"\\ud800":1,"\\ud800":2}', "duplicate key '\\ud800'"),
    (b'{"a":' + DIGITS.encode() + b"}", "an integer has more than 100 digits"),
    (b'{"a":' + b"9" * 5000 + b"}", "an integer has more than 100 digits"),
    (b"[1]", "an object was expected at the top level"),
    (b'"a"', "an object was expected at the top level"),
    (b"null", "an object was expected at the top level"),
    (b'{"a":1', "expecting ',' delimiter at line 1, column 7"),
    (b'{"a":1} x', "extra data at line 1, column 9"),
    (b'{"a":1,}', "expecting property name enclosed in double quotes at line 1, column 8"),
    (b"{'a':1}", "expecting property name enclosed in double quotes at line 1, column 2"),
    (b'{"a":"\n"}', "invalid control character at line 1, column 7"),
    (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "it is nested more than 32 levels deep"),
    (b'{"a":' * 100_000, "it is nested more than 32 levels deep"),
    (b"[" * 200_000 + b"]" * 200_000, "it is nested more than 32 levels deep"),
]


@pytest.mark.parametrize(("body", "sentence"), FAULTS, ids=[sentence for _, sentence in FAULTS])
def test_each_fault_has_its_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(body)
    assert caught.value.status == 400
    assert caught.value.body()["error"] == {
        "message": f"We could not parse the JSON body of your request: {sentence}.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_thirty_two_levels_are_allowed_and_brackets_in_strings_are_no_levels() -> None:
    deep = b'{"a":' + b"[" * 31 + b"]" * 31 + b"}"
    assert parse_object(deep)
    assert parse_object(b'{"a":"' + b"[{" * 100 + b'","b":"\\"[' + b"[" * 50 + b'"}')
    assert parse_object(b'{"a":[' + b",".join([b"[]"] * 500) + b"]}")
    assert parse_object(b'{"a":[[]]}', max_depth=3)
    with pytest.raises(InvalidRequest, match="more than 2 levels"):
        parse_object(b'{"a":[[]]}', max_depth=2)


def test_integers_stay_exact_and_surrogate_pairs_are_characters() -> None:
    exact = "9" * 100
    assert parse_object(f'{{"a":{exact}}}'.encode()) == {"a": int(exact)}
    assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=6))
def test_the_canonical_form_reads_back_as_the_same_object(document: dict[str, Any]) -> None:
    assert parse_object(canonical(document)) == document
    assert parse_object(json.dumps(document, ensure_ascii=False, indent=1).encode()) == document


@given(st.dictionaries(st.text(), JSON, max_size=6))
def test_the_canonical_form_is_independent_of_the_order_of_keys(document: dict[str, Any]) -> None:
    turned = dict(reversed(document.items()))
    assert canonical(turned) == canonical(document)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ud8 0n1e.-', max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_an_invalid_request(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except InvalidRequest:
        pass


def test_no_text_of_a_mebibyte_takes_long() -> None:
    hostile = [
        b'{"a":"' + b'\\"[' * 340_000,
        b'{"a":["' + b'","'.join([b"[{"] * 200_000) + b'"]}',
        b'{"a":[' + b"[],".join([b""] * 340_000) + b"[]]}",
        b'{"a":' + b"[" * 1_000_000,
    ]
    for body in hostile:
        begin = time.process_time()
        try:
            parse_object(body)
        except InvalidRequest:
            pass
        assert time.process_time() - begin < 1.0


def test_canonical_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})
