"""The pages say what the code does: errors, routes, commands, headers, settings, names, links and examples."""

import ast
import importlib
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route, Router

from proxy import catalogue, cli, errors, strictjson
from proxy.app import ADMIN_ROOTS, EXPOSED_HEADERS, App, build
from proxy.configuration import load
from proxy.crosschecks import SHIPPED_VENDORS
from proxy.errors import ConfigurationError, ImagegateError, StoreError, UpstreamRefusal, UpstreamStreamFailure
from proxy.families import FAMILIES
from proxy.model import Document, Operation, Rendering
from proxy.routes import SERVED, LateRoutes
from proxy.settings import CacheSection, RulesSection, Settings, UpstreamSection, sections
from proxy.targets import target_of
from proxy.validation import Validator
from tests.support.edits import input_image

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ERRORS = ROOT / "docs" / "errors.md"
REQUEST_PATH = ROOT / "docs" / "request-path.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
VENDORS = ROOT / "docs" / "vendors.md"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "grafana").glob("*.md"),
        *(ROOT / "bench").glob("*.md"),
    ]
)
SOURCES = [path for path in sorted((ROOT / "proxy").rglob("*.py")) if "sandbox" not in path.parts]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [content for language, content in fenced if language in languages]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def section(page: Path, title: str) -> str:
    """What stands under a heading of the second level."""
    return re.split(rf"^## {re.escape(title)}$", text_of(page), flags=re.MULTILINE)[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, heads left out."""
    lines = re.findall(r"^\|(.*)\|$", re.sub(r"^\|.*\|\n\|[-|]+\|$", "", text, flags=re.MULTILINE), re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


# --- errors -----------------------------------------------------------------------------------------------------------


def leaves(kind: type[ImagegateError] = ImagegateError) -> Iterator[type[ImagegateError]]:
    below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    if not below:
        yield kind
    for child in below:
        yield from leaves(child)


def reaching_callers() -> list[type[ImagegateError]]:
    return [
        kind for kind in leaves() if kind.__module__ == errors.__name__ and kind not in (StoreError, ConfigurationError)
    ]


def literal_codes() -> Iterator[str]:
    """Every code that the package or the catalogue writes out."""
    for tree in (ast.parse(text_of(path)) for path in SOURCES):
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                yield str(node.value.value)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_refuse" and len(node.args) == 3:
                yield ast.literal_eval(node.args[1])
    for file in (ROOT / "config" / "catalogue").glob("*.toml"):
        yield from re.findall(r'^code = "(\w+)"$', text_of(file), re.MULTILINE)


def test_every_error_has_a_row_that_says_what_its_class_says() -> None:
    told = {quoted(name)[0]: rest for name, *rest in rows(section(ERRORS, "By class"))}
    assert sorted(told) == sorted(kind.__name__ for kind in reaching_callers())
    for kind in reaching_callers():
        if kind is UpstreamRefusal:
            continue
        status, type_, code, retry, sent, _ = told[kind.__name__]
        if kind is not UpstreamStreamFailure:  # it says what the upstream says
            assert (status, type_) == (str(kind.status), f"`{kind.type}`"), kind
            assert code == (f"`{kind.code}`" if kind.code else "see below"), kind
        assert retry == {None: "—", True: "`true`", False: "`false`"}[kind.should_retry], kind
        assert kind.billed == ("perhaps billed" in sent), kind


def test_every_code_is_on_the_page_and_no_other() -> None:
    of_classes = {kind.code for kind in reaching_callers() if kind.code}
    told = [code for cells in rows(section(ERRORS, "Codes of refused requests")) for code in quoted(cells[0])]
    assert sorted(told) == sorted(set(literal_codes()) - of_classes)


def test_the_tree_in_the_docstring_names_every_leaf() -> None:
    for kind in leaves():
        if kind.__module__ == errors.__name__:
            assert kind.__name__ in (errors.__doc__ or ""), kind


# --- routes -----------------------------------------------------------------------------------------------------------


ROOTS = ("", "/v1", "/openai", "/openai/v1", "/openai/deployments/{model}", "/openai/deployments/{model}/v1", "/v2")


def told_routes() -> list[tuple[str, str]]:
    cells = " ".join(row[0] for row in rows(section(REQUEST_PATH, "What is served")))
    return re.findall(r"`(GET|POST) (/[^`]*)`", cells)


def an_app(tmp_path: Path) -> App:
    cache = CacheSection(directory=tmp_path, min_free_bytes=0)
    return build(Settings(cache=cache, upstreams=(UpstreamSection(name="nobody", base_url="http://127.0.0.1:1/v1"),)))


def router_of(stage: object) -> Router:
    """What is behind everything that every request passes."""
    while not isinstance(stage, Router):
        stage = getattr(stage, "_app", None) or vars(type(stage))["others"].__get__(stage)
    return stage


async def closed(app: App) -> None:
    app.checkers.shutdown()
    await app.store.close()


async def test_every_route_of_the_code_is_on_the_page(tmp_path: Path) -> None:
    app = an_app(tmp_path)
    images = {f"{root}/images/{word}" for root in ROOTS for word in ("generations", "edits", "variations")}
    router = router_of(app.asgi)
    assert isinstance(router.default, LateRoutes)
    late = await router.default.router()
    routes = [route.path for route in (*router.routes, *late.routes) if isinstance(route, Route)]
    assert [path for path in routes[len(router.routes) :] if not path.startswith(ADMIN_ROOTS)] == []
    ordinary = [path for path in routes if not path.startswith("/admin/")]  # those have a page of their own
    await closed(app)
    served = {("POST", path) for path in images if target_of(path) is not None}
    served |= {("GET", path.replace("/models/{name:path}", "/models/{id}")) for path in ordinary}
    assert set(told_routes()) == served
    assert len(told_routes()) == len(served)


def test_what_an_unknown_route_is_told_is_on_the_page() -> None:
    told = {path.replace("{name}", "{id}") for _, path in told_routes()}
    assert set(re.findall(r" (/[^,]+)", SERVED)) <= told


async def test_every_route_of_the_page_is_served(tmp_path: Path) -> None:
    app = an_app(tmp_path)
    transport = httpx.ASGITransport(app.asgi, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method, path in [*told_routes(), ("POST", "/v1/images/variations")]:
            reply = await client.request(method, re.sub(r"\{\w+\}", "x.png", path))
            unknown = reply.status_code in (404, 405) and reply.json()["error"]["code"] != "file_not_found"
            assert unknown == (path == "/v1/images/variations"), path
    await closed(app)


# --- commands ---------------------------------------------------------------------------------------------------------


GROUPS = ("cache", "keys", "teams")
"""Commands whose second word is a command, too."""


def command_of(words: list[str]) -> list[str]:
    return words[:2] if words[0] in GROUPS else words[:1]


def invocations(page: Path) -> Iterator[list[str]]:
    """Every `imagegate …` in a block or between backticks, as words."""
    shell = "".join(blocks(page, "", "sh", "ini"))
    for line in [*shell.splitlines(), *quoted(prose(page))]:
        if line.startswith("docker "):  # there it is the name of an image and of a volume
            continue
        for found in re.findall(r"(?:^|[|/=\s])imagegate ((?:[a-z-]|--).*)", line):
            words = shlex.split(re.split(r"\s[#|]|[|]", found)[0], comments=True)
            if words and re.fullmatch(r"[a-z-]+", words[0]):
                yield words


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_command_exists_with_its_flags(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in invocations(page):
        assert cli.main([*command_of(words), "--help"]) == 0, words
        told = capsys.readouterr().out
        for flag in (word for word in words if word.startswith("--")):
            assert flag in told, words


def test_the_readme_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    told = {" ".join(command_of(words)) for words in invocations(README)}
    for group in ("", *GROUPS):
        assert cli.main([*group.split(), "--help"]) == 0
        for command in re.findall(r"^    ([a-z-]+)\s", capsys.readouterr().out, re.MULTILINE):
            assert command in GROUPS or f"{group} {command}".strip() in told, command


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE):
            assert target in targets, (page.name, target)


# --- headers, settings, metrics, names --------------------------------------------------------------------------------


def constants_of_the_package() -> set[str]:
    """Every literal of the package, lower-case, as text."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                value = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                found.add(value.lower())
    return found


def told_headers() -> set[str]:
    cells = [row[0] for row in rows(section(README, "Headers"))]
    return {name.lower() for cell in cells for name in quoted(cell)}


def test_every_header_of_the_readme_is_read_or_written_by_the_code() -> None:
    known = constants_of_the_package()
    assert {name for name in told_headers() if name.removesuffix("*") not in known} == set()


def test_every_header_of_ours_is_in_the_readme() -> None:
    ours = {name for name in constants_of_the_package() if re.fullmatch(r"x-imagegate-[a-z-]+", name)}
    assert ours | set(EXPOSED_HEADERS) <= told_headers()


@each_page
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {name: {item.name for item in fields(kind)} for name, kind in sections()}
    for word in quoted(prose(page)):
        found = re.match(r"([a-z]+)\.([a-z_]+)( = .*)?$", word)
        if found and found[1] in known and word != "cache.db":
            assert found[2] in known[found[1]], word


@each_page
def test_every_metric_that_is_named_exists_with_its_labels(page: Path) -> None:
    known = {family.name: {label.name: label for label in family.labels} for family in FAMILIES}
    for name, selector in re.findall(r"\b(imagegate_[a-z_]+)(?:\{([^}\n`]*)\})?", text_of(page)):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if name == "imagegate_variant":
            continue
        assert family in known, name
        for label, values in re.findall(r'(\w+)[=!~]+"([^"]*)"', selector):
            assert label in known[family], (name, label)
            assert set(values.split("|")) <= {*known[family][label].values, ""}, (name, label)


@pytest.mark.parametrize("page", [README, ROOT / "grafana" / "README.md", ROOT / "docs" / "operating.md"], ids=str)
def test_every_query_groups_by_labels_that_exist(page: Path) -> None:
    labels = {family.name: {label.name for label in family.labels} for family in FAMILIES}
    for line in text_of(page).splitlines():
        for by, name in re.findall(r"by \(([a-z_, ]+)\) \(.*?(imagegate_[a-z_]+)", line):
            family = name.removesuffix("_bucket")
            assert {label.strip() for label in by.split(",")} <= labels[family] | {"le"}, line


@each_page
def test_every_module_and_function_that_is_named_exists(page: Path) -> None:
    for word in quoted(prose(page)):
        if re.fullmatch(r"(proxy|config|tests|docs|requirements)/[\w./-]*\w", word):
            assert (ROOT / word).exists(), word
        if re.fullmatch(r"proxy(\.\w+)+", word):
            assert resolved(word), word


def resolved(dotted: str) -> object:
    """The object that a dotted name stands for; the longest module first. Raises AttributeError."""
    names = dotted.split(".")
    for length in range(len(names), 0, -1):
        try:
            found: object = importlib.import_module(".".join(names[:length]))
        except ImportError:
            continue
        for name in names[length:]:
            found = getattr(found, name)
        return found
    raise AttributeError(dotted)


def test_the_life_of_a_request_has_the_steps_of_the_pipeline_in_their_order() -> None:
    pipeline = importlib.import_module("proxy.pipeline")
    steps = re.findall(r"^([a-z]+)  ", inspect.getdoc(pipeline) or "", re.MULTILINE)
    assert steps == ["believe", "generate", "answer", "fill", "buy"]
    assert blocks(REQUEST_PATH, "text")[0].strip() in (inspect.getdoc(pipeline) or "")
    for page, mark in (README, r"\*\*([a-z]+)[:.]"), (REQUEST_PATH, r"^## ([a-z]+): "):
        found = [step for step in re.findall(mark, text_of(page), re.MULTILINE) if step in steps]
        assert found == steps, page.name


def test_the_layers_have_every_module() -> None:
    told = {word for row in rows(section(ARCHITECTURE, "Layers")) for word in quoted(row[1])}
    modules = {path for path in (ROOT / "proxy").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert told == {str(path.relative_to(ROOT)) for path in modules} - {"proxy/__init__.py"}


def test_every_shipped_vendor_has_a_row_and_no_other() -> None:
    told = [quoted(row[0])[0] for row in rows(text_of(VENDORS).split("\n## ")[0])]
    assert sorted(told) == sorted(SHIPPED_VENDORS)


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings get."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_every_relative_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if fragment:
            assert fragment in anchors(linked), target


def test_the_index_lists_every_page_of_the_docs() -> None:
    linked = re.findall(r"\]\(([^)#\s]+)", text_of(ROOT / "docs" / "README.md"))
    assert {(ROOT / "docs" / target).resolve() for target in linked} >= set((ROOT / "docs").rglob("*.md")) - {
        ROOT / "docs" / "README.md"
    }


@each_page
def test_no_page_names_a_package_index_or_a_place_of_one_machine(page: Path) -> None:
    assert not re.search(r"index-url|/root/|/home/\w|//[^ /]*(?:pythonhosted|npmjs)", text_of(page), re.IGNORECASE)


# --- examples ---------------------------------------------------------------------------------------------------------


@each_page
def test_every_python_example_compiles(page: Path) -> None:
    for example in blocks(page, "python"):
        compile(example, str(page), "exec")


@each_page
def test_every_json_example_is_json(page: Path) -> None:
    for example in blocks(page, "json"):
        for line in example.splitlines():
            json.loads(line)


@each_page
def test_every_toml_example_is_a_configuration_or_a_catalogue(page: Path, tmp_path: Path) -> None:
    examples = blocks(page, "toml")
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.toml"
        file.write_text(example, "utf-8")
        if "vendor" in tomllib.loads(example):
            assert catalogue.load([file]).vendors
            continue
        for name in tomllib.loads(example).get("rules", {}).get("catalogue", ()):  # the next one on the page
            text = next(each for each in examples[number:] if "vendor" in tomllib.loads(each))
            (tmp_path / name).write_text(text, "utf-8")
        settings = load(file, dict.fromkeys(re.findall(r'env = "(\w+_API_KEY)"', example), "sk-marked"))
        assert settings.file == file
        assert {each.vendor for each in settings.upstreams} <= set(catalogue.load(settings.rules.catalogue).vendors)


def asked(page: Path) -> list[str]:
    """The bodies that the shell examples of a page send."""
    return [
        body for example in blocks(page, "sh") for body in re.findall(r"(?:-d|echo) '(\{.*?\})'", example, re.DOTALL)
    ]


def test_the_bodies_in_the_readme_are_valid_but_for_the_one_that_shows_a_refusal() -> None:
    validator = Validator(catalogue.load(), RulesSection())
    refused = []
    for body in asked(README):
        try:
            document = Document(strictjson.parse_object(body.encode()))
            validator.validate(document, Operation.GENERATION, "openai")
        except ImagegateError as error:
            refused.append(error.body())
    assert len(asked(README)) >= 6
    assert refused == [json.loads(example) for example in blocks(README, "json")]


@each_page
def test_every_form_that_a_page_sends_is_a_valid_edit(page: Path) -> None:
    for example in blocks(page, "sh"):
        for command in example.replace("\\\n", " ").splitlines():
            if "/images/edits" not in command or " -F " not in command:
                continue
            words = shlex.split(command)
            fields = dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "-F")
            assert fields.pop("image").startswith("@"), command
            edit = Document(fields, (input_image(),), container="multipart")
            Validator(catalogue.load(), RulesSection()).validate(edit, Operation.EDIT, "openai")  # raises if it is none


def test_the_renderings_of_the_readme_are_those_there_are() -> None:
    told = [quoted(row[0])[0] for row in rows(section(README, "Renderings"))]
    assert told == [rendering.value for rendering in Rendering]
