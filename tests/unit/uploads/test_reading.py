"""A request's pictures are read into a Document, whatever their wrapping, or nothing of them stays."""

import asyncio
import base64
import gc
import hashlib
import io
import json
import os
import resource
import tempfile
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from proxy.errors import InvalidRequest, NoRoomForUpload, PayloadTooLarge, RequestError
from proxy.model import Body, Document, InputImage, Reference
from proxy.spool import Spools
from proxy.uploads.reading import WINDOW_BYTES, Limits, Uploads
from tests.support.multipart import BOUNDARY, FormPart, chunked, content_type, cut_at, file, form, text

pytestmark = pytest.mark.anyio

T = TypeVar("T")

MIB = 1 << 20
SMALL = Limits(
    multipart_bytes=4 * MIB, json_bytes=4 * MIB, picture_bytes=MIB, field_bytes=100_000, memory_bytes=600_000
)


def painted(kind: str = "PNG", mode: str = "RGBA", size: tuple[int, int] = (7, 5)) -> bytes:
    target = io.BytesIO()
    Image.new(mode, size).save(target, kind)
    return target.getvalue()


PICTURE = painted()
LARGE = PICTURE + bytes(range(256)) * 3000  # over several windows


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def uploads(tmp_path: Path, executor: ThreadPoolExecutor) -> Uploads:
    return Uploads(Spools(tmp_path, executor, "aaaa"), MIB)


@pytest.fixture
def small(tmp_path: Path, executor: ThreadPoolExecutor) -> Uploads:
    return Uploads(Spools(tmp_path, executor, "aaaa"), 200_000, SMALL)


@pytest.fixture
def diskless(tmp_path: Path, executor: ThreadPoolExecutor) -> Uploads:
    """No file can be created: its directory is a file."""
    (tmp_path / "tmp").touch()
    return Uploads(Spools(tmp_path, executor, "aaaa"), 200_000, SMALL)


async def read_form(uploads: Uploads, *parts: FormPart, boundary: str = BOUNDARY) -> Document:
    return await uploads.multipart(chunked(form(*parts, boundary=boundary)), content_type(boundary))


async def read_json(uploads: Uploads, document: Any, **options: Any) -> Document:
    body = document if isinstance(document, bytes) else json.dumps(document, **options).encode()
    return await uploads.json(chunked(body))


async def contents(body: Body) -> bytes:
    return bytes(await body.window(0, len(body)))


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def picture_of(place: Any) -> InputImage:
    assert isinstance(place, InputImage)
    return place


def described(document: Document) -> Any:
    """All that a Document says, comparable."""

    def plain(value: Any) -> Any:
        if isinstance(value, InputImage):
            return value.media_type, value.sha256, value.found_type, value.width, value.height, value.has_alpha
        if isinstance(value, Reference):
            return "reference", value.member
        return value

    fields = {name: plain(value) for name, value in document.fields.items()}
    images = None if document.images is None else [plain(image) for image in document.images]
    return fields, images, plain(document.mask), document.container


def traces(directory: Path) -> tuple[list[Path], int]:
    """Files with a name, and open descriptors."""
    gc.collect(1)  # a traceback and its frames hold each other; what is older is none of ours
    return sorted(directory.glob("tmp/*")), len(os.listdir("/proc/self/fd"))


async def refusal(reading: Coroutine[Any, Any, Document]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await reading
    return caught.value


# --- forms --------------------------------------------------------------------------------------------------------------


async def test_a_form_becomes_fields_and_pictures(uploads: Uploads) -> None:
    document = await read_form(
        uploads,
        text("prompt", "a café ☕"),
        file("image[]", PICTURE),
        file("image[]", painted("JPEG", "RGB", (9, 4)), "IMAGE/JPEG; charset=binary", "a.jpg"),
        file("mask", LARGE),
        text("n", "2"),
        text("svg[model]", "small"),
        text("svg[a][b]", "deep"),
    )
    assert document.container == "multipart"
    assert document.fields == {"prompt": "a café ☕", "n": "2", "svg": {"model": "small", "a": {"b": "deep"}}}
    assert document.images is not None
    first, second = map(picture_of, document.images)
    assert (first.media_type, first.found_type, first.width, first.height) == ("image/png", "image/png", 7, 5)
    assert (first.sha256, first.has_alpha, await contents(first.body)) == (digest(PICTURE), True, PICTURE)
    assert (second.media_type, second.width, second.has_alpha) == ("image/jpeg", 9, False)
    mask = picture_of(document.mask)
    assert (mask.sha256, await contents(mask.body)) == (digest(LARGE), LARGE)


async def test_a_document_without_pictures_has_none(uploads: Uploads) -> None:
    document = await read_form(uploads, text("prompt", ""))
    assert described(document) == ({"prompt": ""}, None, None, "multipart")
    assert described(await read_form(uploads)) == ({}, None, None, "multipart")


async def test_what_stands_in_a_pictures_place_is_kept_to_be_refused(uploads: Uploads) -> None:
    document = await read_form(uploads, text("image", "a.png"), text("mask", ""), text("images", "[]"))
    assert described(document) == ({"images": "[]"}, ["a.png"], "", "multipart")


async def test_a_file_in_another_place_is_a_file_all_the_same(uploads: Uploads) -> None:
    document = await read_form(uploads, file("prompt", b"x", "text/plain"), file("images", PICTURE))
    assert picture_of(document.fields["prompt"]).sha256 == digest(b"x")
    assert picture_of(document.fields["images"]).width == 7


async def test_a_part_with_a_content_type_is_a_picture_where_one_belongs_and_text_elsewhere(uploads: Uploads) -> None:
    document = await read_form(
        uploads,
        file("image", PICTURE, "image/png", filename=None),
        file("prompt", b"words", "text/plain; charset=UTF-8", filename=None),
    )
    assert document.images is not None
    assert picture_of(document.images[0]).width == 7
    assert document.fields == {"prompt": "words"}


@pytest.mark.parametrize("media_type", [None, "application/octet-stream"])
async def test_a_file_without_a_content_type_is_just_bytes(uploads: Uploads, media_type: str | None) -> None:
    document = await read_form(uploads, file("image", PICTURE, media_type))
    assert document.images is not None
    assert picture_of(document.images[0]).media_type == "application/octet-stream"


@pytest.mark.parametrize(
    "filename",
    ["", "C:\\\\a\\\\b.png", 'a\\"b.png', "a%22b.png", "../../etc/passwd", "ünïcode☕", "a; name=mask", "x" * 3000],
)
async def test_a_file_name_is_nobodys_business(uploads: Uploads, filename: str) -> None:
    named, plain = (
        await read_form(uploads, file("image", PICTURE, filename=filename)),
        await read_form(uploads, file("image", PICTURE)),
    )
    assert described(named) == described(plain)


async def test_an_encoded_file_name_is_a_file_name(uploads: Uploads) -> None:
    part = FormPart(["Content-Disposition: form-data; name=image; filename*=UTF-8''%e2%82%ac.png"], PICTURE)
    document = await read_form(uploads, part)
    assert document.images is not None
    assert picture_of(document.images[0]).width == 7


async def test_what_stands_after_the_final_boundary_is_no_part_of_the_form(uploads: Uploads) -> None:
    body = form(file("image", PICTURE)) + b"epilogue"
    plain = described(await read_form(uploads, file("image", PICTURE)))
    for size in (1, 7, len(body)):
        assert described(await uploads.multipart(chunked(body, size), content_type())) == plain


async def test_a_line_break_before_the_first_boundary_does_no_harm(uploads: Uploads) -> None:
    body = b"\r\n" + form(text("n", "1"))
    for size in (1, 50, len(body)):
        assert (await uploads.multipart(chunked(body, size), content_type())).fields == {"n": "1"}


BOUNDARIES = st.from_regex(r"[0-9A-Za-z'()+_,./:=?-]{1,70}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAMES = st.from_regex(r"[a-z_]{1,12}(\[[a-z]{1,3}\])?", fullmatch=True).filter(
    lambda name: not name.startswith(("image", "mask"))
)


@given(
    texts=st.dictionaries(NAMES, TEXTS, max_size=4).filter(
        lambda texts: len({name.partition("[")[0] for name in texts}) == len(texts)
    ),
    pictures=st.lists(st.binary(max_size=300), max_size=4),
    boundaries=st.tuples(BOUNDARIES, BOUNDARIES),
    cuts=st.lists(st.integers(0, 4000), max_size=30),
)
@settings(max_examples=40, deadline=None)
def test_the_same_parts_are_the_same_document_however_they_are_wrapped_and_cut(
    texts: dict[str, str], pictures: list[bytes], boundaries: tuple[str, str], cuts: list[int]
) -> None:
    wholes = [*pictures, *(value.encode() for value in texts.values())]
    if any(b"--" + boundary.encode() in whole for whole in wholes for boundary in boundaries):
        return

    async def read(boundary: str, filename: str) -> tuple[Any, list[bytes]]:
        parts = [text(name, value) for name, value in texts.items()]
        parts += [file("image[]", picture, filename=filename) for picture in pictures]
        body = form(*parts, boundary=boundary)
        with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as pool:
            uploads = Uploads(Spools(Path(directory), pool, "aaaa"), MIB)
            document = await uploads.multipart(cut_at(body, cuts), content_type(boundary))
            return described(document), [await contents(image.body) for image in document.images or ()]

    first, second = asyncio.run(read(boundaries[0], "a.png")), asyncio.run(read(boundaries[1], "bcd"))
    assert first == second
    assert first[1] == pictures
    assert [image[1] for image in first[0][1] or []] == [digest(picture) for picture in pictures]


# --- forms that are refused ---------------------------------------------------------------------------------------------


def disposition(rest: str, content: bytes = b"x", *more: str) -> bytes:
    return form(FormPart([f"Content-Disposition: {rest}", *more], content))


IMAGE = 'form-data; name="image"; filename="a"'
HOSTILE = {
    "no body": b"",
    "no boundary at all": b"prompt=a+cat",
    "a preamble": b"preamble\r\n" + form(text("n", "1")),
    "no final boundary": form(file("image", PICTURE))[: -len(BOUNDARY) - 8],
    "half a final boundary": form(file("image", PICTURE))[:-4],
    "an end within headers": form(file("image", PICTURE))[: len(BOUNDARY) + 30],
    "an end within the first boundary": b"--" + BOUNDARY.encode()[:5],
    "bytes after a boundary": form(text("n", "1")).replace(BOUNDARY.encode() + b"\r\n", BOUNDARY.encode() + b"x\r\n"),
    "10,000 parts": form(*(text(f"f{number}", "") for number in range(10_000))),
    "65 parts": form(*(text(f"f{number}", "") for number in range(65))),
    "ten headers": disposition(IMAGE, b"", *(f"X-{number}: y" for number in range(10))),
    "a long header": disposition(IMAGE, b"", "X: " + "y" * 5000),
    "headers that are long together": disposition(IMAGE, b"", "X: " + "y" * 3000, "Y: " + "y" * 3000),
    "headers without end": b"--" + BOUNDARY.encode() + b"\r\n" + b"x" * 2 * MIB,
    "a header without a colon": disposition(IMAGE, b"", "nonsense"),
    "a folded header": disposition(IMAGE, b"", " folded"),
    "a header name of spaces": disposition(IMAGE, b"", "X Y: z"),
    "a header that is not UTF-8": form(text("n", "1")).replace(b'"n"', b'"\xff"'),
    "nested multipart": disposition(IMAGE, b"", "Content-Type: multipart/mixed; boundary=x"),
    "base64": disposition(IMAGE, b"eA==", "Content-Transfer-Encoding: base64"),
    "quoted-printable": disposition(IMAGE, b"=41", "Content-Transfer-Encoding: Quoted-Printable"),
    "another charset": disposition('form-data; name="n"', b"x", "Content-Type: text/plain; charset=utf-16"),
    "no media type": disposition(IMAGE, b"x", "Content-Type: png"),
    "no disposition": form(FormPart(["Content-Type: image/png"], b"x")),
    "no headers": form(FormPart([], b"x")),
    "another disposition": disposition("attachment; name=n"),
    "an empty disposition": disposition(""),
    "no name": disposition("form-data"),
    "an empty name": disposition('form-data; name=""'),
    "a name without end": disposition('form-data; name="image'),
    "a name twice": disposition('form-data; name="image"; name="n"'),
    "a name with nothing after it": disposition("form-data; name"),
    "a name of two words": disposition("form-data; name=a b"),
    "a long name": disposition(f'form-data; name="{"é" * 129}"'),
    "a name with a line break": disposition('form-data; name="a%0D%0Ab"'),
    "a bare line feed in a name": disposition('form-data; name="a\nb"'),
    "a NUL in a name": disposition('form-data; name="a\0b"'),
    "two dispositions": disposition(IMAGE, b"", "Content-Disposition: form-data; name=n"),
    "line feeds alone": form(text("n", "1")).replace(b"\r\n", b"\n"),
    "carriage returns alone": form(text("n", "1")).replace(b"\r\n", b"\r"),
    "a part longer than it says": disposition(IMAGE, b"xyz", "Content-Length: 2"),
    "a part shorter than it says": disposition(IMAGE, b"xyz", "Content-Length: 4"),
    "a negative length": disposition(IMAGE, b"xyz", "Content-Length: -1"),
    "text that is not UTF-8": form(FormPart(['Content-Disposition: form-data; name="prompt"'], b"caf\xe9")),
    "text that ends within a character": form(FormPart(['Content-Disposition: form-data; name="n"'], b"\xe2\x98")),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_body_that_is_no_form_is_refused_and_nothing_of_it_stays(
    uploads: Uploads, tmp_path: Path, name: str
) -> None:
    before = traces(tmp_path)
    for size in (1 << 16, 61):
        fault = await refusal(uploads.multipart(chunked(HOSTILE[name], size), content_type()))
        assert (type(fault), fault.status, fault.code) == (InvalidRequest, 400, "invalid_multipart")
        del fault
    assert traces(tmp_path) == before


@pytest.mark.parametrize(
    "header",
    [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "b" * 71,
        'multipart/form-data; boundary="b "',
        'multipart/form-data; boundary="b\x00b"',
        'multipart/form-data; boundary="b\r\nX: y"',
        "multipart/form-data; boundary=bé",
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; boundary",
        "multipart/form-data boundary=b",
        "multipart/mixed; boundary=b",
        "multipart/form-data; boundary=" + "b=" * 50_000,
    ],
)
async def test_a_content_type_without_one_legal_boundary_is_refused(uploads: Uploads, header: str) -> None:
    fault = await refusal(uploads.multipart(chunked(form(text("n", "1"), boundary="b")), header))
    assert (fault.status, fault.code) == (400, "invalid_multipart")


@pytest.mark.parametrize(
    "header", ["Multipart/Form-Data;BOUNDARY=b;", 'multipart/form-data ; charset=utf-8; boundary="b"']
)
async def test_a_content_type_may_be_spelled_in_other_ways(uploads: Uploads, header: str) -> None:
    document = await uploads.multipart(chunked(form(text("n", "1"), boundary="b")), header)
    assert document.fields == {"n": "1"}


@pytest.mark.parametrize(
    "parts",
    [
        [text("prompt", "a"), text("prompt", "a")],
        [file("image", PICTURE), file("image", PICTURE)],
        [file("mask", PICTURE), text("mask", "")],
        [text("svg[model]", "a"), text("svg[model]", "b")],
        [text("svg[model]", "a"), text("svg", "b")],
        [text("svg", "b"), text("svg[model]", "a")],
        [text("svg[model]", "b"), text("svg[model][x]", "a")],
        [file("extra", PICTURE), file("extra", PICTURE)],
    ],
)
async def test_a_parameter_may_be_there_once(uploads: Uploads, tmp_path: Path, parts: list[FormPart]) -> None:
    fault = await refusal(read_form(uploads, *parts))
    name = parts[1].headers[0].split('"')[1]
    assert (fault.status, fault.code, fault.param) == (400, "duplicate_parameter", name)
    assert fault.message == (
        f"Duplicate parameter: '{name}'. You provided multiple values for this parameter, whereas only one is allowed. "
        f"If you are trying to provide a list of values, use the array syntax instead e.g. '{name}[]=<value>'."
    )
    assert traces(tmp_path)[0] == []


async def test_there_are_at_most_sixteen_pictures(uploads: Uploads) -> None:
    pictures = [file("image[]", PICTURE + bytes([number])) for number in range(17)]
    document = await read_form(uploads, *pictures[:16], file("mask", PICTURE))
    assert document.images is not None
    assert len(document.images) == 16
    fault = await refusal(read_form(uploads, *pictures))
    assert (fault.status, fault.code, fault.param) == (400, "array_above_max_length", "image")
    assert fault.message == (
        "Invalid 'image': array too long. Expected an array with maximum length 16, but got an array with length 17 instead."
    )


@pytest.mark.parametrize(("name", "param"), [("image", "image"), ("image[]", "image"), ("mask", "mask")])
async def test_a_picture_has_a_largest_size(small: Uploads, tmp_path: Path, name: str, param: str) -> None:
    document = await read_form(small, file(name, PICTURE.ljust(MIB)))
    picture = picture_of(document.mask if name == "mask" else (document.images or ())[0])
    assert len(picture.body) == MIB
    del document, picture
    before = traces(tmp_path)
    fault = await refusal(read_form(small, file(name, PICTURE.ljust(MIB + 1))))
    assert (fault.status, fault.code, fault.param) == (400, "file_too_large", param)
    assert str(MIB) in fault.message
    del fault
    assert traces(tmp_path) == before


async def test_texts_have_a_largest_size_alone_and_together(small: Uploads) -> None:
    alone = await refusal(read_form(small, text("prompt", "x" * 100_001)))
    assert (alone.status, alone.code, alone.param) == (400, "string_above_max_length", "prompt")
    await read_form(small, text("a", "x" * 100_000), text("b", "x" * 100_000))
    together = await refusal(read_form(small, text("a", "x" * 100_000), text("b", "x" * 99_999), text("c", "xx")))
    assert (type(together), together.status) == (PayloadTooLarge, 413)


async def test_a_body_has_a_largest_size(small: Uploads, tmp_path: Path) -> None:
    pictures = [file("image[]", PICTURE.ljust(MIB)) for _ in range(4)]
    for reading in (read_form(small, *pictures), read_json(small, b" " * (4 * MIB + 1))):
        fault = await refusal(reading)
        assert (type(fault), fault.status) == (PayloadTooLarge, 413)
    assert traces(tmp_path)[0] == []


# --- JSON ---------------------------------------------------------------------------------------------------------------


async def test_json_becomes_fields_and_pictures(uploads: Uploads) -> None:
    prompt = 'a "café" ☕\n' * 3000
    document = await read_json(
        uploads,
        {
            "prompt": prompt,
            "n": 2,
            "images": [
                {"image_url": data_url(LARGE)},
                {"image_url": "https://example.com/a-picture-with-a-long-address.png"},
                {"image_url": data_url(painted("WEBP"), "IMAGE/webp;charset=x"), "file_id": None},
                {"file_id": "file-0123456789012345678901234567890123456789"},
            ],
            "mask": {"image_url": data_url(PICTURE)},
            "svg": {"model": "a model whose name has many characters"},
        },
        ensure_ascii=False,
    )
    assert document.container == "json"
    assert document.fields == {
        "prompt": prompt,
        "n": 2,
        "svg": {"model": "a model whose name has many characters"},
    }
    assert document.images is not None
    first, second, third, fourth = document.images
    assert (first.media_type, first.sha256, first.width) == ("image/png", digest(LARGE), 7)
    assert await contents(first.body) == LARGE
    assert second == Reference({"image_url": "https://example.com/a-picture-with-a-long-address.png"})
    assert (third.media_type, third.found_type) == ("image/webp", "image/webp")
    assert fourth == Reference({"file_id": "file-0123456789012345678901234567890123456789"})
    assert picture_of(document.mask).sha256 == digest(PICTURE)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, ({}, None, None)),
        ({"images": None}, ({"images": None}, None, None)),
        ({"images": "x"}, ({"images": "x"}, None, None)),
        ({"images": []}, ({}, [], None)),
        ({"images": [], "mask": None}, ({}, [], None)),
        ({"images": [None, 5, "x", [], {}]}, ({}, [None, 5, "x", [], {}], None)),
        ({"mask": "x"}, ({}, None, "x")),
        ({"image": "y" * 5000}, ({"image": "y" * 5000}, None, None)),
        *(
            ({"images": [member], "mask": member}, ({}, [member], member))
            for member in (
                {"image_url": "https://a", "file_id": "b"},
                {"image_url": None, "file_id": None},
                {"image_url": {"url": "https://example.com/a-picture-with-a-long-address.png"}},
                {"image_url": "https://a", "detail": "high"},
                {"image_url": "ftp://example.com/a-picture-with-a-long-address.png"},
                {"image_url": ""},
                {"file_id": 5},
                {"file_id": ""},
                {"name of a member that nobody knows": 5},
            )
        ),
    ],
)
async def test_what_is_no_picture_is_kept_to_be_refused(uploads: Uploads, document: Any, expected: Any) -> None:
    assert described(await read_json(uploads, document)) == (*expected, "json")


async def test_the_scheme_and_the_small_pictures_are_found_in_any_spelling(uploads: Uploads) -> None:
    body = (
        rb'{"\u0069mages":[{"image_url":"DATA:image/png;BASE64,eA=="},'
        rb'{"\u0069\u006d\u0061\u0067\u0065_url":"\u0064\u0061ta:image\/png;base64,eHh4"},'
        rb'{"image_url":"HTTPS:\/\/example.com\/a-picture-with-a-long-address.png"}],'
        rb'"\u006d\u0061\u0073\u006b\u006d\u0061\u0073\u006b":1}'
    )
    document = await read_json(uploads, body)
    assert document.images is not None
    assert document.images[0].sha256 == digest(b"x")
    assert document.images[1].sha256 == digest(b"xxx")
    assert document.images[2] == Reference({"image_url": "HTTPS://example.com/a-picture-with-a-long-address.png"})
    assert document.fields == {"maskmask": 1}


async def test_escapes_do_not_change_a_picture(uploads: Uploads) -> None:
    content = bytes([0xFB, 0xFF, 0xBF, 0xFE, 0x3E]) * 100_000  # base64 full of "+" and "/"
    url = data_url(content)
    for spelled in (url, url.replace("/", r"\/"), url.replace("+", r"\u002B").replace("/", r"\u002f")):
        document = await read_json(uploads, b'{"images":[{"image_url":"%s"}]}' % spelled.encode())
        assert document.images is not None
        assert (document.images[0].sha256, len(document.images[0].body)) == (digest(content), len(content))


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        "data:image/png,eA==",
        "data:image/png;base64",
        "data:image/png;base64,e",
        "data:image/png;base64,eA",
        "data:image/png;base64,eA=",
        "data:image/png;base64,eA===",
        "data:image/png;base64,eA==eA==",
        "data:image/png;base64,e_-=",
        "data:image/png;base64,eHh4 eHh4",
        "data:image/png;base64,eHh4\\neHh4",
        "data:image/png;base64,eHh4\\\\eHh",
        "data:image/png;base64,eHh4\\u00e9aa",
        "data:image/png;base64,eHhé",
        "data:" + "x" * 300 + ";base64,eHh4",
        data_url(b"x" * WINDOW_BYTES)[:-1],
        data_url(b"x" * WINDOW_BYTES) + "eHh4",
        data_url(b"x" * WINDOW_BYTES)[:-5] + "#xxx",
    ],
)
async def test_a_data_url_that_is_not_base64_throughout_is_refused(uploads: Uploads, tmp_path: Path, url: str) -> None:
    before = traces(tmp_path)
    for place in ("images", "mask"):
        item = b'{"image_url":"%s"}' % url.encode()
        body = b'{"images":[{"image_url":"%s"}%s' % (
            data_url(PICTURE).encode(),
            b"," + item if place == "images" else b"",
        )
        fault = await refusal(read_json(uploads, body + (b"]}" if place == "images" else b'],"mask":%s}' % item)))
        assert (fault.status, fault.param, fault.code) == (400, place, "invalid_value")
        assert fault.message.endswith("but got an invalid base64-encoded value.")
        del fault
        assert traces(tmp_path) == before


async def test_an_address_of_a_picture_has_a_longest_length(uploads: Uploads, tmp_path: Path) -> None:
    spelled = "A" * 20_971_520
    for url in (f"data:image/png;base64,{spelled}", rf"data:image\/png;base64,{spelled}"):
        fault = await refusal(read_json(uploads, b'{"images":[{"image_url":"%s"}]}' % url.encode()))
        assert (fault.status, fault.code, fault.param) == (400, "string_above_max_length", "images")
        assert "maximum length 20971520" in fault.message
    assert traces(tmp_path)[0] == []


async def test_json_has_at_most_sixteen_pictures(uploads: Uploads) -> None:
    fault = await refusal(read_json(uploads, {"images": [{"image_url": data_url(PICTURE)}] * 17}))
    assert (fault.code, fault.param) == ("array_above_max_length", "images")
    assert "Invalid 'images': array too long." in fault.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"prompt":"' + b"x" * 100,
        b'\xef\xbb\xbf{"n":1}',
        b'{"n":1,"n":2}',
        b'{"n":NaN}',
        b'{"a":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"prompt":"' + b"\xff" * 100 + b'"}',
        b'{"prompt":"' + b"\n" * 100 + b'"}',
        b'{"prompt":"' + rb"\x" * 100 + b'"}',
        b'{"prompt":"' + rb"\ud800" * 100 + b'"}',
        b'{"%s":1,"%s":2}' % (b"k" * 100, b"k" * 100),
        b'{"images":[],"' + rb"\u0069\u006d\u0061\u0067\u0065\u0073" + b'":[]}',
        b'{"images":[{"image_url":"https://a","' + rb"\u0069\u006d\u0061\u0067\u0065_url" + b'":"b"}]}',
        b'{"svg":{"%s":1,"%s":2}}' % (b"k" * 100, b"k" * 100),
    ],
)
async def test_a_body_that_is_not_strict_json_is_refused(uploads: Uploads, tmp_path: Path, body: bytes) -> None:
    fault = await refusal(read_json(uploads, body))
    assert (type(fault), fault.status) == (InvalidRequest, 400)
    assert "JSON" in fault.message
    assert traces(tmp_path)[0] == []


async def test_json_is_bounded_without_its_pictures(small: Uploads) -> None:
    long = await refusal(read_json(small, {"prompt": "x" * 200_001}))
    assert (long.status, long.code, long.param) == (400, "string_above_max_length", "prompt")
    many = await refusal(read_json(small, {"a": "x" * 199_000, "b": "x" * 2_000}))
    assert (type(many), many.status) == (PayloadTooLarge, 413)
    short = await refusal(read_json(small, {"a": ["x"] * 60_000}))
    assert (type(short), short.status) == (PayloadTooLarge, 413)
    bare = await refusal(read_json(small, {"images": [{"image_url": "x" * 200_001}]}))
    assert (bare.status, bare.param) == (400, "images")
    assert "without the 'data:' prefix" in bare.message


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_a_document_or_a_refusal(junk: bytes, more: bytes) -> None:
    body = form(FormPart(['Content-Disposition: form-data; name="image"; filename=a'], junk))

    async def read() -> None:
        with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(1) as pool:
            uploads = Uploads(Spools(Path(directory), pool, "aaaa"), MIB)
            for reading in (
                uploads.multipart(chunked(body[: len(junk)] + more), content_type()),
                uploads.multipart(chunked(body[:80] + more + body[80:]), content_type()),
                uploads.json(chunked(junk)),
                uploads.json(chunked(b'{"images":[{"image_url":"data:image/png;base64,' + junk + b'"}]}')),
            ):
                try:
                    await reading
                except RequestError as fault:
                    assert fault.status == 400

    asyncio.run(read())


# --- what stays ---------------------------------------------------------------------------------------------------------


async def test_pictures_have_no_names_and_go_with_the_last_reference(uploads: Uploads, tmp_path: Path) -> None:
    before = traces(tmp_path)
    document = await read_form(uploads, file("image", LARGE), file("mask", PICTURE))
    assert traces(tmp_path) == ([], before[1] + 2)
    del document
    assert traces(tmp_path) == before


class Stalled:
    """A body that arrives up to a point, and then no further."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.stalled = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self._body
        self.stalled.set()
        await asyncio.Event().wait()


FORM = form(file("image[]", LARGE), file("image[]", LARGE))
JSON = json.dumps({"images": [{"image_url": data_url(LARGE)}]}).encode()


@pytest.mark.parametrize("size", [200, len(LARGE) // 2, len(LARGE) + 400, len(FORM) - 50])
@pytest.mark.parametrize("container", ["multipart", "json"])
async def test_a_cancelled_upload_leaves_nothing(uploads: Uploads, tmp_path: Path, size: int, container: str) -> None:
    before = traces(tmp_path)
    stalled = Stalled((FORM if container == "multipart" else JSON)[:size])
    chunks = stalled.chunks()
    reading = uploads.multipart(chunks, content_type()) if container == "multipart" else uploads.json(chunks)
    task = asyncio.ensure_future(reading)
    await stalled.stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await chunks.aclose()
    del task, reading, chunks, stalled
    assert traces(tmp_path) == before


class Interrupting(ThreadPoolExecutor):
    """Calls `interrupt` as the n-th piece of work is handed to it."""

    def __init__(self, turn: int) -> None:
        super().__init__(2)
        self._turns = turn
        self.interrupt: Callable[[], object] = lambda: None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self._turns -= 1
        if self._turns == 0:
            self.interrupt()
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("container", ["multipart", "json"])
@pytest.mark.parametrize("turn", range(1, 15))
async def test_an_upload_cancelled_while_a_thread_works_for_it_leaves_nothing(
    tmp_path: Path, turn: int, container: str
) -> None:
    before = traces(tmp_path)
    with Interrupting(turn) as pool:
        uploads = Uploads(Spools(tmp_path, pool, "aaaa"), MIB)
        start = (
            uploads.multipart(chunked(FORM), content_type())
            if container == "multipart"
            else uploads.json(chunked(JSON))
        )
        task = asyncio.ensure_future(start)
        pool.interrupt = task.cancel
        await asyncio.wait([task])
        assert task.cancelled() or turn > 8
        del task, start
        pool.interrupt = list  # it holds the task
    assert traces(tmp_path) == before


async def test_an_error_of_the_body_is_passed_on_and_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    class Gone(Exception):
        pass

    async def broken(body: bytes) -> AsyncIterator[bytes]:
        yield body
        raise Gone

    before = traces(tmp_path)
    with pytest.raises(Gone):
        await uploads.multipart(broken(FORM[:-50]), content_type())
    with pytest.raises(Gone):
        await uploads.json(broken(JSON[:-50]))
    assert traces(tmp_path) == before


# --- without a disk -----------------------------------------------------------------------------------------------------


async def test_without_a_disk_a_little_is_held_in_memory_and_given_back(diskless: Uploads) -> None:
    document = await read_form(diskless, file("image", PICTURE.ljust(400_000)), file("mask", PICTURE))
    assert document.images is not None
    assert await contents(picture_of(document.images[0]).body) == PICTURE.ljust(400_000)
    assert diskless.room.held_bytes == 400_000 + len(PICTURE)
    del document
    gc.collect()
    assert diskless.room.held_bytes == 0


WITHOUT_ROOM: dict[str, Callable[[Uploads], Coroutine[Any, Any, Document]]] = {
    "one picture": lambda uploads: read_form(uploads, file("image", b"x" * 700_000)),
    "two pictures": lambda uploads: read_form(
        uploads, file("image[]", b"x" * 400_000), file("image[]", b"x" * 400_000)
    ),
    "a body": lambda uploads: read_json(uploads, b" " * 700_000),
    "a body and its picture": lambda uploads: read_json(uploads, {"images": [{"image_url": data_url(b"x" * 400_000)}]}),
}


@pytest.mark.parametrize("name", WITHOUT_ROOM)
async def test_what_memory_does_not_take_is_refused_for_now(diskless: Uploads, name: str) -> None:
    with pytest.raises(NoRoomForUpload) as caught:
        await WITHOUT_ROOM[name](diskless)
    assert (caught.value.status, caught.value.code) == (503, "no_room_for_upload")
    assert caught.value.headers == {"retry-after": "10"}
    del caught
    gc.collect()
    assert diskless.room.held_bytes == 0
    await read_form(diskless, file("image", b"x" * 500_000))


async def test_uploads_share_the_memory(diskless: Uploads) -> None:
    first = await read_form(diskless, file("image", b"x" * 400_000))
    with pytest.raises(NoRoomForUpload):
        await read_form(diskless, file("image", b"x" * 400_000))
    del first
    gc.collect()
    await read_form(diskless, file("image", b"x" * 400_000))


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A disk that is full once a file has so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_disk_that_fills_up_midway_is_left_for_the_memory(small: Uploads, tmp_path: Path) -> None:
    content = os.urandom(590_000)
    with no_file_longer_than(400_000):
        document = await read_form(small, file("image", content))
        assert document.images is not None
        assert await contents(picture_of(document.images[0]).body) == content
        assert (traces(tmp_path)[0], small.room.held_bytes) == ([], len(content))


async def test_many_uploads_that_lose_their_disk_at_once_hold_little(tmp_path: Path) -> None:
    threads = ThreadPoolExecutor(8)
    uploads = Uploads(Spools(tmp_path, threads, "aaaa"), MIB, Limits(memory_bytes=MIB))
    body = form(file("image", bytes(5 * MIB)))

    async def read() -> bool:
        try:
            await uploads.multipart(chunked(body), content_type())
        except NoRoomForUpload:
            return False
        return True

    with threads, no_file_longer_than(4 * MIB):
        tracemalloc.start()
        try:
            assert not any(await asyncio.gather(*(read() for _ in range(8))))
            assert tracemalloc.get_traced_memory()[1] < 12 * MIB  # not 8 times what each of them had written
        finally:
            tracemalloc.stop()
    assert (traces(tmp_path)[0], uploads.room.held_bytes) == ([], 0)


# --- memory -------------------------------------------------------------------------------------------------------------


async def repeated(head: bytes, block: bytes, count: int, tail: bytes) -> AsyncIterator[bytes]:
    """A large body that nobody holds."""
    yield head
    for _ in range(count):
        yield bytes(block)
    yield tail


async def test_memory_is_flat_however_large_the_pictures_are(uploads: Uploads) -> None:
    block = base64.b64encode(os.urandom(48 * 1024))
    start = form(file("image[]", b""))[: -len(BOUNDARY) - 8]
    between = b"\r\n" + start
    url = b'{"image_url":"data:image/png;base64,'

    async def two_in_a_form() -> AsyncIterator[bytes]:
        async for chunk in repeated(start, block, 320, between):
            yield chunk
        async for chunk in repeated(b"", block, 320, f"\r\n--{BOUNDARY}--\r\n".encode()):
            if chunk:
                yield chunk

    async def two_in_json() -> AsyncIterator[bytes]:
        async for chunk in repeated(b'{"images":[' + url, block, 312, b'"},' + url):
            yield chunk
        async for chunk in repeated(b"", block, 312, b'"}]}'):
            yield chunk

    async def peak(reading: Coroutine[Any, Any, Document]) -> tuple[int, Document]:
        tracemalloc.start()
        try:
            document = await reading
            return tracemalloc.get_traced_memory()[1], document
        finally:
            tracemalloc.stop()

    for reading, size in (
        (uploads.multipart(two_in_a_form(), content_type()), 320 * 65_536),
        (uploads.json(two_in_json()), 312 * 49_152),
    ):
        held, document = await peak(reading)
        assert [len(image.body) for image in document.images or ()] == [size, size]
        assert held < 10 * 10**6
