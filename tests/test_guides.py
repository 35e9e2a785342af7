"""The code of the guides runs, and the commands in them exist.

The blocks of a page run one after another, in one namespace and in an empty folder. A Python
block with a title is written to that file, for the commands below it. Commands with a title are
checked and not run.
"""

import ast
import contextlib
import itertools
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from guide_blocks import blocks, run_python, sections
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]
# The page about other libraries. Each section runs alone, if its packages are installed.
WORKS_WITH = ROOT / "docs" / "guides" / "works-with.md"
SECTIONS = sections(WORKS_WITH) if WORKS_WITH.exists() else {}
# What a section needs and does not import.
ALSO = {
    "Lightning": {"matplotlib", "tensorboard"},
    "ONNX": {"onnxscript"},
    "TensorBoard and wandb": {"matplotlib", "tensorboard"},
    "transformers": {"accelerate"},
}
DISTRIBUTIONS = {
    "onnxruntime": "'softattn[onnx]'",
    "onnxscript": "'softattn[onnx]'",
    "pytorch_grad_cam": "grad-cam",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
}
# Pages whose commands are also run, in the order of the page.
RUN = {"ddp", "ham10000", "trained"}
# Pages that start several processes or train models.
SLOW = {"ddp", "ham10000", "save"}
# Pages whose code imports the example.
EXAMPLE = {"command-line", "ham10000", "trained"}
COMMAND_LINE = ROOT / "docs" / "guides" / "command-line.md"

if not GUIDES:
    pytest.skip("needs a checkout", allow_module_level=True)


def words_of(block):
    """Return the commands of a shell block as lists of words."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def guides():
    """Yield the guides, each with its name."""
    for page in sorted({*GUIDES} - {WORKS_WITH}):
        yield pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.stem in SLOW else ())


@pytest.mark.parametrize("page", [*guides()])
def test_code_runs(page, tmp_path, monkeypatch):
    for package in ("timm", "transformers", "matplotlib", "h5py", "safetensors", "onnxruntime"):
        pytest.importorskip(package, reason="the guides need softattn[all]")
    if page.stem in EXAMPLE:
        pytest.importorskip("ham10000", reason="pip install -e examples/ham10000")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HAM10000_DIR", raising=False)
    Path("examples").symlink_to(ROOT / "examples")
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.title:
            Path(block.title).write_text(block.code)
        elif block.language == "python":
            run_python(page, block, names)
        elif block.language == "sh" and page.stem in RUN and not block.title:
            run(block, monkeypatch)


def test_the_start_guide_installs_what_it_needs():
    """Its code imports the packages of the extras that it installs, and of no other extra."""
    for package in ("timm", "matplotlib"):
        pytest.importorskip(package, reason="the guide needs softattn[timm,plot]")
    page = ROOT / "docs" / "guides" / "start.md"
    (command, *_) = [words for b in blocks(page) if b.language == "sh" for words in words_of(b)]
    assert command[:2] == ["pip", "install"]
    installed = re.fullmatch(r"softattn\[(.+)\]", command[2])[1].split(",")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = {"huggingface-hub": "huggingface_hub"}
    modules = {extra: {named.get(r.name, r.name) for r in map(Requirement, lines)}
               for extra, lines in extras.items() if extra != "all"}  # fmt: skip
    others = set().union(*(found for extra, found in modules.items() if extra not in installed))
    code = "\n".join(b.code for b in blocks(page) if b.language == "python")
    needed = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    command = [sys.executable, "-c", needed]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    of_timm = {"huggingface_hub", "safetensors"}  # dependencies of timm itself
    assert all(modules[extra] <= imported for extra in installed)
    assert not imported & (others - of_timm)


def packages(heading, found):
    """Return the names by which the packages of a section are imported, with those they need."""
    trees = [ast.parse(block.code) for block in found if block.language == "python"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return sorted({name.partition(".")[0] for name in names} | ALSO.get(heading, set()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("heading", SECTIONS)
def test_code_of_a_section_runs_alone(heading, tmp_path, monkeypatch):
    for package in packages(heading, SECTIONS[heading]):
        name = DISTRIBUTIONS.get(package, package)
        pytest.importorskip(package, reason=f"pip install {name}", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in SECTIONS[heading]:
        run_python(WORKS_WITH, block, names)


def test_a_page_names_versions_that_were_tested():
    """CI installs the newest versions, which may be newer than those of the page."""
    rows = re.findall(r"^\| \[(\S+)\]\(#(\S+)\)[^|]* \| (\S+) \|", WORKS_WITH.read_text(), re.M)
    anchors = {heading.lower().replace(" ", "-") for heading in SECTIONS}
    assert {anchor for _, anchor, _ in rows} >= anchors
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    bounds = {}
    for line in [
        *project["project"]["dependencies"],
        *itertools.chain(*project["project"]["optional-dependencies"].values()),
        *itertools.chain(*map(project["dependency-groups"].get, ("networks", "integrations"))),
    ]:
        requirement = Requirement(line)
        bounds[requirement.name] = requirement.specifier
    for name, _, version in rows:
        assert bounds[name].contains(version), name
        with contextlib.suppress(metadata.PackageNotFoundError):
            assert Version(version) <= Version(metadata.version(name)), name


def run(block, monkeypatch):
    """Run the commands of a shell block that work without network and installation."""
    for words in words_of(block):
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
        elif words[0] == "ham10000":
            from ham10000.cli import main

            assert main(words[1:]) == 0, words
        elif words[0] == "torchrun":
            command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page):
    for words in (w for b in blocks(page) if b.language == "sh" for w in words_of(b)):
        while re.fullmatch(r"\w+=\S*", words[0]):
            words = words[1:]
        CHECKS[words[0]](words[1:])


def commands_of_softattn():
    """Return the name and help of each command, as the parser has them."""
    from softattn.cli.main import build_parser

    (commands,) = (each for each in build_parser()._actions if each.dest == "command")
    return [(each.dest, each.help) for each in commands._choices_actions]


def commands_of_ham10000():
    cli = pytest.importorskip("ham10000.cli.main", reason="pip install -e examples/ham10000")
    return [(name, cli._summary(name, module)) for name, module in cli.COMMANDS.items()]


@pytest.mark.parametrize("program", [commands_of_softattn, commands_of_ham10000])
def test_the_page_of_the_command_line_has_every_command(program):
    name = program.__name__.removeprefix("commands_of_")
    text = COMMAND_LINE.read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| `(.+?)` \|$", text, re.MULTILINE)
    found = [(command, about.removesuffix(".").lower()) for command, about, _ in rows]
    assert found == [(each, about.removesuffix(".").lower()) for each, about in program()]
    for command, _, example in rows:
        words = shlex.split(example)
        assert words[:2] == [name, command]
        CHECKS[name](words[1:])


def _softattn(arguments):
    from softattn.cli.main import build_parser

    build_parser().parse_args(arguments)


def _ham10000(arguments):
    cli = pytest.importorskip("ham10000.cli", reason="pip install -e examples/ham10000")
    cli.parse_command(arguments)


def _torchrun(arguments):
    from torch.distributed.run import get_args_parser

    _python([get_args_parser().parse_args(arguments).training_script])


def _make(arguments):
    for target in arguments:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def _python(arguments):
    titles = {block.title for page in PAGES for block in blocks(page)}
    module = arguments[1:2] if arguments[0] == "-m" else []
    assert module or arguments[0] in titles or (ROOT / arguments[0]).exists(), arguments


def _pip(arguments):
    for argument in arguments:
        name, _, extras = argument.strip("]").partition("[")
        project = ROOT / name if name.startswith("examples") else ROOT
        text = (project / "pyproject.toml").read_text()
        for extra in filter(None, extras.split(",")):
            assert re.search(rf"^{extra} = ", text, re.MULTILINE), extra


def _eval(arguments):
    for command in arguments:
        name, *rest = shlex.split(command.removeprefix("$(").removesuffix(")"))
        CHECKS[name](rest)


# Other commands must only be known ones.
CHECKS = {
    "eval": _eval,
    "softattn": _softattn,
    "ham10000": _ham10000,
    "torchrun": _torchrun,
    "make": _make,
    "python": _python,
    "pip": _pip,
    **dict.fromkeys(("cd", "export", "git", "hf", "tensorboard"), lambda arguments: None),
}


def messages(folder):
    """Yield the literal texts of a package, with … for inserted values."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                values = (getattr(part, "value", None) for part in node.values)
                yield "".join(value if isinstance(value, str) else "…" for value in values)


def test_messages_in_the_headings_of_troubleshooting_exist():
    page = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    example = ROOT / "examples" / "ham10000" / "src" / "ham10000"
    texts = [*messages(ROOT / "src" / "softattn"), *messages(example)]
    for heading in quoted:
        parts = [part.strip() for part in heading.split("…") if part.strip()]
        assert all(any(part in text for text in texts) for part in parts), heading
