"""Secrets: shown to nobody, written by reference, and in no message."""

from pathlib import Path

import pytest

from proxy.secret import Secret
from tests.support.configuration import MARKED, OPENAI, problems, settings


def test_a_secret_is_shown_to_nobody() -> None:
    secret = Secret(MARKED, ("env", "OPENAI_API_KEY"))
    assert [str(secret), repr(secret), f"{secret}", f"{[secret]}"] == ["Secret(…)"] * 3 + ["[Secret(…)]"]
    assert secret.reveal() == MARKED
    assert secret == Secret(MARKED)
    assert secret != Secret(MARKED + "x")
    assert secret != MARKED


def test_a_secret_is_written_by_reference_only(tmp_path: Path) -> None:
    (found,) = problems(OPENAI + f"api_key = '{MARKED}'\n", tmp_path)
    assert found.startswith("upstreams.0.api_key: secrets are written by reference: { env =")
    assert MARKED not in found


def test_a_secret_in_a_file_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(MARKED + "\n")
    assert settings(OPENAI + "api_key = { file = 'key' }\n", tmp_path).upstreams[0].api_key == Secret(MARKED)


def test_a_variable_that_is_not_set_leaves_the_secret_unset(tmp_path: Path) -> None:
    for environ in ({}, {"MY_KEY": ""}):
        assert settings(OPENAI + "api_key = { env = 'MY_KEY' }\n", tmp_path, environ).upstreams[0].api_key is None


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("{ file = 'none' }", "the file it names cannot be read"),
        ("{ file = 'empty' }", "the file it names is empty"),
        ("{ env = 'SPLIT' }", "holds spaces or characters that no header may carry"),
        ("{ evn = 'X' }", "secrets are written by reference"),
        ("{ env = 'X', file = 'Y' }", "secrets are written by reference"),
    ],
)
def test_a_reference_that_leads_nowhere_is_a_mistake(reference: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    found = problems(OPENAI + f"api_key = {reference}\n", tmp_path, {"SPLIT": f"{MARKED}\nX-Injected: 1"})
    assert [line for line in found if line.startswith(f"upstreams.0.api_key: {problem}")]
    assert MARKED not in " ".join(found)
