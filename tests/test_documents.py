"""README and docs name only what exists: modules, files, links, `make` targets, `deserve` commands and their flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from deserve_client.main import deserve

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TREES = "kernels|ledger|node|coordinator|tests|docs"

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def code_blocks(text: str) -> Iterator[str]:
    """Indented blocks line by line, a trailing backslash joining the next."""
    block = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def inline_code(text: str) -> Iterator[str]:
    prose = "\n".join("" if line.startswith("    ") else line for line in text.splitlines())
    yield from re.findall(r"`([^`\n]+)`", prose)


def code(text: str) -> list[str]:
    return [*code_blocks(text), *inline_code(text)]


def source_of(module: str) -> str | None:
    """The source of a module of ours, None where there is none. Nothing is imported, which would take seconds."""
    for root in ("kernels", "ledger", "node", "coordinator"):
        path = ROOT / root / module.replace(".", "/")
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return file.read_text()
    return None


def is_there(dotted: str) -> bool:
    """Whether `dotted` is a module, or a name that the source of a module mentions."""
    if source_of(dotted) is not None:
        return True
    module, _, name = dotted.rpartition(".")
    return bool(module) and re.search(rf"\b{name}\b", source_of(module) or "") is not None


def is_metric(name: str) -> bool:
    """Metrics begin like packages: the coordinator's are in modules `metrics`, the node's its Stats with a prefix."""
    sources = [path.read_text() for path in (ROOT / "coordinator/deserve_coordinator").rglob("metrics.py")]
    quoted = f'"{name.removesuffix("_total")}"'
    return name.startswith("deserve_node_") or any(quoted in source for source in sources)


def anchors(document: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> list[list[str]]:
    """The arguments of every `deserve ...` in code, up to where the shell would end the command."""
    found = []
    for line in code(text):
        for match in re.finditer(r"(?:^|(?<=[\s/=]))deserve (?=[a-z])([^|;&>#]*)", line):
            words = shlex.split(match[1])
            found.append(words[: words.index("...")] if "..." in words else words)
    return found


def check_command(words: list[str]) -> None:
    """Raises `click.UsageError` for a subcommand, a flag or a number of arguments that does not exist."""
    command: click.Command = deserve
    context = click.Context(command, info_name="deserve")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    _, left, _ = command.make_parser(context).parse_args(list(words))
    if left and not isinstance(command, click.Group):
        raise click.UsageError(f"{context.command_path}: unexpected {left}")


@every_document
def test_modules_exist(document):
    named = {name for line in code(document.read_text()) for name in re.findall(r"\bdeserve_\w+(?:\.\w+)*", line)}
    assert {name for name in named if not is_there(name) and not is_metric(name)} == set()


@every_document
def test_files_exist(document):
    named = {
        path for line in code(document.read_text()) for path in re.findall(rf"(?<![\w./-])(?:{TREES})/[\w./-]*\w", line)
    }
    assert {path for path in named if not (ROOT / path).exists()} == set()


@every_document
def test_links_lead_somewhere(document):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@every_document
def test_make_targets_exist(document):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {name for line in code(document.read_text()) for name in re.findall(r"^make (\w+)", line)}
    assert named <= targets


@every_document
def test_commands_exist_with_their_flags(document):
    for words in commands(document.read_text()):
        check_command(words)


@pytest.mark.parametrize(
    "line",
    [
        "batch submti prompts.jsonl",
        "batch submit prompts.jsonl --ouput results.jsonl",
        "batch submit prompts.jsonl more.jsonl",
        "testnet run --latency 10",
        "miner start",
    ],
)
def test_a_wrong_command_would_be_found(line):
    (words,) = commands(f"    deserve {line}")
    with pytest.raises(click.UsageError):
        check_command(words)


def test_a_wrong_module_would_be_found():
    assert is_there("deserve_node.ring.scheduler")
    assert is_there("deserve_node.ring.scheduler.StepPlan")
    assert not is_there("deserve_node.ring.schedule")
    assert not is_there("deserve_node.ring.scheduler.Plan")
