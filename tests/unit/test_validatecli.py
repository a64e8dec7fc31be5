"""`imagegate validate`: a body judged, shown and priced, or refused as the model would."""

import base64
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import pytest

from proxy.cli import main
from tests.support.configuration import config
from tests.support.images import picture

pytestmark = pytest.mark.usefixtures("bare_environment")

FOX = {"model": "gpt-image-2", "prompt": "a fox", "size": "1024x1024", "quality": "low"}


def body(folder: Path, document: object = FOX) -> str:
    file = folder / "body.json"
    file.write_text(json.dumps(document), "utf-8")
    return str(file)


def test_a_valid_body_is_shown_in_canonical_form_with_its_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", body(tmp_path)]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["model"] == "gpt-image-2 at openai"
    assert json.loads(shown["request"]) == FOX
    assert re.fullmatch(r"about [\d,]+ out, at most [\d,]+ in", shown["tokens"])
    assert re.fullmatch(r"about \$0\.\d+", shown["price"])


def test_a_body_may_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(FOX).encode())))
    assert main(["validate", "-", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["request"] == FOX
    assert found["known"] is True
    assert found["estimated_output_tokens"] > 0
    assert float(found["estimated_cost_usd"]) > 0


def test_a_body_that_would_be_refused_is_answered_as_openai_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", body(tmp_path, {**FOX, "size": "1000x1000"})]) == 1
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == "size"
    assert "Nearest valid size: 1008x1008." in error["message"]
    assert len(printed.err.splitlines()) == 1


def test_the_vendor_may_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--vendor", "apiyi", body(tmp_path, {**FOX, "n": 2})]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["param"] == "n"
    assert main(["validate", "--vendor", "nobody", body(tmp_path)]) == 2
    assert "--vendor: 'nobody' is not in the catalogue" in capsys.readouterr().err


def test_the_rules_of_the_upstream_that_would_serve_the_model_apply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = "".join(
        f"[[upstreams]]\nname = '{name}'\nvendor = '{name}'\nbase_url = 'https://x.example'\nmodels = ['{models}']\n"
        for name, models in (("openai", "dall-*"), ("apiyi", "gpt-*"))
    )
    assert main(["validate", "--json", "--config", config(tmp_path, toml), body(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["vendor"] == "apiyi"


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def test_the_body_of_an_edit_is_judged_with_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fox, link = picture("fox"), {"image_url": "https://pictures.example/fox.png"}
    edit = {**FOX, "images": [{"image_url": data_url(fox)}, link]}
    assert main(["validate", "--json", "--edits", body(tmp_path, edit)]) == 0
    found = json.loads(capsys.readouterr().out)
    named = {"sha256": hashlib.sha256(fox).hexdigest(), "type": "image/png"}
    assert found["request"] == {**FOX, "images": [named, link]}
    assert found["estimated_input_tokens"] > 2 * 1024
    assert main(["validate", "--edits", body(tmp_path, edit)]) == 0
    assert main(["validate", body(tmp_path, edit)]) == 1


@pytest.mark.parametrize(
    ("images", "code"),
    [
        ([], "empty_array"),
        ([{"image_url": data_url(b"not a picture")}], "invalid_image_file"),
        ([{"image_url": data_url(picture("fox"), "text/plain")}], "unsupported_file_mimetype"),
        ([{"image_url": "data:image/png;base64,???"}], "invalid_value"),
    ],
)
def test_an_edit_that_would_be_refused_is_answered_as_openai_would(
    images: object, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "--edits", body(tmp_path, {**FOX, "images": images})]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_an_edit_may_be_larger_than_another_body(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = body(tmp_path, {**FOX, "images": [{"image_url": data_url(picture("fox", size=5000))}]})
    limits = {"max_json_bytes": 1024, "max_edit_json_bytes": 1 << 20}
    roomy = config(tmp_path, "[server]\n" + "".join(f"{name} = {value}\n" for name, value in limits.items()))
    assert main(["validate", "--config", roomy, "--edits", edit]) == 0
    tight = config(tmp_path, "[server]\nmax_edit_json_bytes = 1024\n")
    capsys.readouterr()
    assert main(["validate", "--config", tight, "--edits", edit]) == 1
    assert "server.max_edit_json_bytes" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": 1, "model": 2}', "\ufeff{}", "nonsense" * 10])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "body.json"
    file.write_text(text, "utf-8")
    assert main(["validate", str(file)]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "invalid_request_error"


def test_a_body_may_be_no_larger_than_the_proxy_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, "[server]\nmax_json_bytes = 1024\n")
    assert main(["validate", "--config", file, body(tmp_path, {**FOX, "prompt": "x" * 1024})]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "request_too_large"


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.endswith("none.json: cannot be read: No such file or directory\n")


def test_a_flat_price_is_shown_without_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = body(tmp_path, {"model": "gpt-image-2-all", "prompt": "a fox"})
    assert main(["validate", "--vendor", "apiyi", flat]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (shown["tokens"], shown["price"]) == ("unknown", "about $0.03")
    assert main(["validate", "--json", "--vendor", "apiyi", flat]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["estimated_output_tokens"], found["estimated_cost_usd"]) == (None, "0.03")
