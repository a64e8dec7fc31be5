"""`imagegate validate`: a body judged, shown and priced, or refused as the model would."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from proxy.cli import main
from tests.support.configuration import config

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
