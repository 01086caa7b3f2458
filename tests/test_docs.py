"""The docs say what is true: names resolve, links lead somewhere, tables are the code's own, the tour runs."""

import importlib
import re
import shlex
from pathlib import Path
from typing import get_args

import nbformat
import pytest
import typer
from nbclient import NotebookClient

import pixmend
from pixmend.cli.main import app
from pixmend.completion import METHODS
from pixmend.masks import SHAPES
from pixmend.training import TrainSettings, recipe_names

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXT = "\n".join(page.read_text() for page in PAGES)
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
VERBS = typer.main.get_command(app).commands


def option_row(option):
    """Return the line of the reference that an option of a verb has."""
    default = "required" if option.required else option.default
    shown = "" if default is None or default is False else f"{default}"
    value = f" {option.metavar}" if option.metavar else ""
    return (
        "| "
        + " | ".join(
            cell.replace("|", r"\|") for cell in (f"`{option.opts[0]}{value}`", shown, option.help)
        )
        + " |"
    )


def setting_row(name):
    """Return the line of the reference that a training setting has."""
    field = TrainSettings.model_fields[name]
    bounds = {key: value for item in field.metadata for key, value in vars_of(item).items()}
    choices = get_args(field.annotation)
    values = ", ".join(map(str, choices)) if choices and type(None) not in choices else ""
    if not values:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        values = ", ".join(f"{signs[key]} {value:,}" for key, value in bounds.items())
    default = field.default
    if default is None:  # as the setting of both networks that it takes one out of
        default = f"as `{name.removeprefix('discriminator_')}`"
    return f"| `{name}` | {default} | {values} | {field.description} |"


def vars_of(item):
    return {key: getattr(item, key) for key in ("ge", "gt", "le", "lt") if hasattr(item, key)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^):\s]*)\)", page.read_text()):
        target = (page.parent / link) if link else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_and_every_path_in_a_page_resolves(page):
    text = page.read_text()
    for name in re.findall(r"`(pixmend(?:\.\w+)+)", text):
        resolve_name(name)
    for path in re.findall(r"`((?:src|tests|recipes|benchmarks|examples|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for place in re.findall(r"`(tests/\S+\.py::\w+)`", text):
        file, _, test = place.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text(), place


def resolve_name(name):
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
            break
        except ModuleNotFoundError:
            continue
    for part in parts[cut:]:
        # An attribute, or the field of a class.
        found = getattr(found, part, None) or found.__annotations__[part]


@pytest.mark.parametrize("verb", VERBS)
def test_the_reference_has_each_option_as_the_program_has_it(verb):
    section = REFERENCE.partition(f"\n### {verb}\n")[2].partition("\n#")[0]
    assert section, f"no section {verb}"
    for parameter in VERBS[verb].params:
        if parameter.param_type_name == "option":
            assert option_row(parameter) in section.splitlines()


@pytest.mark.parametrize("name", TrainSettings.model_fields)
def test_the_reference_has_each_setting_as_the_code_has_it(name):
    assert setting_row(name) in REFERENCE.splitlines()


def test_every_setting_that_the_docs_set_is_one():
    named = re.findall(r"--set (\w+)=", TEXT)
    assert len(named) > 3
    assert {name for name in named if name.lower() != "key"} <= TrainSettings.model_fields.keys()


def test_the_help_of_complete_names_every_method():
    (option,) = (each for each in VERBS["complete"].params if each.name == "method")
    assert set(METHODS) <= set(re.findall(r"\w+", option.help))


@pytest.mark.parametrize("name", [*SHAPES, *METHODS, *recipe_names()])
def test_every_mask_method_and_recipe_is_in_the_docs(name):
    assert re.search(rf"`{re.escape(name)}[`:\[]", TEXT)


def test_the_site_has_every_page_and_every_public_name():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = set(re.findall(r"^(?:\.\./)?([\w-]+)$", index, re.MULTILINE))
    assert {page.stem for page in PAGES} - {"index", "README"} <= listed
    names = re.findall(r"^\.\. auto\w+:: (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert {*names, "__version__"} == set(pixmend.__all__)


def test_readme_and_benchmarks_are_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
    assert len((ROOT / "docs" / "benchmarks.md").read_text().splitlines()) <= 250


def test_readme_and_architecture_link_to_the_glossary():
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text()
    assert "(glossary.md)" in (ROOT / "docs" / "architecture.md").read_text()


def test_the_glossary_explains_each_term_once_and_lists_each_paper_it_cites():
    terms, _, papers = GLOSSARY.partition("\n## Papers\n")
    rows = [line.strip("|").split(" | ") for line in terms.splitlines() if line.startswith("| ")]
    names = [name.strip() for row in rows if row[0] != " term" for name in row[0].split(",")]
    assert len(names) > 60
    assert len(names) == len(set(names))
    for author, year in re.findall(r"(\w+) (\d{4})", " ".join(row[-1] for row in rows)):
        assert any(author in entry and year in entry for entry in papers.split("\n- ")), author


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped(page):
    for line in page.read_text().splitlines():
        assert len(line) <= 120 or re.match(r"\||!\[|    |\$\$|.*\]\(", line), line


def test_every_command_in_the_docs_is_one_that_the_program_takes():
    commands = re.findall(r"^ {4}(pixmend .*)$|`(pixmend [^`]*)`", TEXT, re.MULTILINE)
    assert len(commands) > 10
    for command in (block or inline for block, inline in commands):
        verb, *rest = shlex.split(command.replace("...", ""), comments=True)[1:] or ["--help"]
        if verb in ("VERB", "--help", "--version"):
            continue
        known = {
            name for parameter in VERBS[verb].params for name in getattr(parameter, "opts", ())
        }
        for word in rest:
            assert not word.startswith("--") or word in known | {"--help"}, command


def test_the_tour_runs():
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    stored = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    # A kernel that is asked to end may outlive the test on a busy machine.
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", shutdown_kernel="immediate"
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for outputs in (stored, shown):
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
        assert not [output for output in outputs if output.get("name") == "stderr"]
    assert [each["output_type"] for each in stored] == [each["output_type"] for each in shown]
    assert str(ROOT) not in str(stored)
