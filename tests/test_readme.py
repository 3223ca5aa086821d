"""The documents say what is so: their code runs, their tables are the code's, links lead somewhere.

"The README" means the pages below docs/ too: what is tested of it may stand on any of them.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import toml
from support.clients import dispatch_script
from support.named import Server
from support.readme import ALL, PAGES, ROOT

from covalent_sshtiming import errors, options, settings
from covalent_sshtiming.demo.dispatcher import Dispatcher
from covalent_sshtiming.remote import wire
from covalent_sshtiming.timing.record import TimingRecord
from covalent_sshtiming.timing.timings import read_log

PACKAGE = ROOT / "covalent_sshtiming"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
DOCUMENTS = (
    *PAGES,
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "docker/README.md",
)

# Classes that only group others, or that no executor raises.
GROUPS = {"SSHTimingError", "HostKeyError", "TaskError"}

# Appended to the README's example, to hand its findings over.
TELL = """
import json
print(json.dumps({"status": str(result.status), "result": result.result, "dispatch_id": dispatch_id}))
"""


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", ALL, re.MULTILINE | re.DOTALL)


def section(document: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", document, re.MULTILINE | re.DOTALL)
    assert match, heading
    return match[1]


def marked(name: str) -> str:
    """Return what stands between a pair of the README's markers."""
    match = re.search(rf"<!-- {name}\b[^>]*-->\n(.*?)<!-- /{name} -->", ALL, re.DOTALL)
    assert match, name
    return match[1]


def machine_names(executor: dict[str, Any]) -> list[str]:
    """Return the names under which a section's machines can be asked for."""
    return sorted({executor.get("hostname", ""), *executor.get("hosts", {})} - {""})


def test_there_is_an_example_for_every_way_of_use() -> None:
    """The README shows the how-to, an instance with arguments, the name, and covalent.conf for machines."""
    sources = blocks("python")
    assert "timing_filepath=timing_log" in sources[0]
    assert any('@ct.electron(executor="sshtiming")' in source for source in sources)
    sections = [toml.loads(text)["executors"]["sshtiming"] for text in blocks("toml")]
    assert [len(section.get("hosts", {})) for section in sections[:2]] == [0, 3]


def test_there_is_an_example_for_every_way_in() -> None:
    """Each setting that concerns the login stands in some covalent.conf of the README's."""
    shown = {name for text in blocks("toml") for name in re.findall(r"^(\w+) =", text, re.MULTILINE)}
    names = list(options.OPTIONS)
    ways = names[names.index("hostname") : names.index("timing_filepath")]
    assert set(ways) - shown == {"password_env", "known_hosts_file"}  # like their neighbours


@pytest.mark.parametrize("source", blocks("python"), ids=range(len(blocks("python"))))
def test_python_in_the_readme_compiles(source: str) -> None:
    """Each Python block is whole, so that it can be copied as it stands."""
    compile(source, "README.md", "exec")


@pytest.mark.parametrize("text", blocks("toml"), ids=range(len(blocks("toml"))))
def test_configuration_in_the_readme_is_accepted(text: str) -> None:
    """Each covalent.conf resolves, by name and for each of its machines."""
    executor = toml.loads(text)["executors"]["sshtiming"]
    assert settings.resolve({}, executor).host_label == executor["hostname"]
    for name in machine_names(executor):
        found = settings.resolve({"hostname": name}, executor)
        table = executor.get("hosts", {}).get(name, {})
        assert found.username == table.get("username", executor["username"])
        assert found.hostname == table.get("hostname", name)


def test_arguments_in_the_readme_are_accepted(tmp_path: Path) -> None:
    """The instance that the README makes from arguments has settings that resolve."""
    (source,) = [text for text in blocks("python") if "time_limit=" in text]
    call = re.search(r"TimingSSHExecutor\(.*?^\)", source, re.MULTILINE | re.DOTALL)
    assert call
    given: dict[str, Any] = eval(call[0], {"TimingSSHExecutor": dict})  # noqa: S307 - our own README
    given["timing_filepath"] = str(tmp_path / given["timing_filepath"])
    assert settings.resolve(given, {}).time_limit == given["time_limit"]


def test_the_example_runs_as_it_stands(any_sshd: Server, dispatcher: Dispatcher, tmp_path: Path) -> None:
    """The README's workflow gives e, and a log of the one line that the README shows."""
    dispatcher.configure({"executors": {"sshtiming": {"hosts": {"build01": {"hostname": any_sshd.host}}}}})
    told = dispatch_script(dispatcher, blocks("python")[0] + TELL, cwd=tmp_path)
    assert told["status"] == "COMPLETED"
    assert told["result"] == pytest.approx(2.71828, abs=1e-5)

    log = tmp_path / "cpu_timing.log"
    (record,) = read_log(log).records
    assert log.read_text() == record.sentence() + "\n"
    assert record.dispatch_id == told["dispatch_id"]
    assert record.host == "build01"

    shown = re.compile(r"Node 0 in dispatch [0-9a-f-]{36} took [0-9.e-]+s of CPU time\.\n")
    assert shown.fullmatch(blocks("text")[0])
    assert shown.fullmatch(log.read_text())


def test_the_phases_are_those_of_the_record() -> None:
    """The README explains each phase that a record has, in the record's order."""
    explained = re.findall(
        r"^\| `(\w+)` \|", section(PAGES["docs/measured.md"], "What is measured"), re.MULTILINE
    )
    walls = [
        match[1] for name in TimingRecord().to_dict() if (match := re.fullmatch(r"phase_(\w+)_wall_s", name))
    ]
    assert explained == walls


def test_the_settings_table_is_the_generated_one() -> None:
    """The README's table of settings is what the code says of its options."""
    assert marked("settings table") == options.markdown_table()
    assert marked("local settings") == options.markdown_local()


def test_what_covalent_ssh_plugin_has_is_known_here() -> None:
    """Each option in the table for people who come from there is one that is accepted or refused here."""
    table = section(PAGES["docs/settings.md"], "Coming from covalent-ssh-plugin")
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    names = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert {"poll_freq", "conda_env", "run_local_on_ssh_fail"} <= names <= set(options.OPTIONS)
    refused = {name for name in names if options.OPTIONS[name].refused}
    assert refused == set(re.findall(r"^\| `(\w+)` \| refused", table, re.MULTILINE))


def test_troubleshooting_has_every_error() -> None:
    """The README says of each error class what to do, and names none that is not there."""
    classes = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.SSHTimingError)
    }
    named = re.findall(
        r"^\| `(\w+)` \|", section(PAGES["docs/troubleshooting.md"], "Troubleshooting"), re.MULTILINE
    )
    assert sorted(named) == sorted(classes - GROUPS)


def test_the_common_errors_are_as_among_all() -> None:
    """What the README says of the commonest errors is what their own page says of them."""
    page = PAGES["docs/troubleshooting.md"].replace("](", "](docs/").splitlines()
    rows = re.findall(r"^\| `.*", section(PAGES["README.md"], "Troubleshooting"), re.MULTILINE)
    assert rows
    assert [row for row in rows if row not in page] == []


def test_the_readme_has_every_page() -> None:
    """The README's list of pages has each one, by its title, and each opens with what it has."""
    listed = dict(
        re.findall(r"^\| \[(.*?)\]\((docs/.*?)\)", section(PAGES["README.md"], "More pages"), re.MULTILINE)
    )
    titles = {
        re.findall(r"\A# (.*)\n\nThis page has ", text)[0]: name for name, text in list(PAGES.items())[1:]
    }
    assert listed == titles


def test_the_wire_table_has_every_frame() -> None:
    """ARCHITECTURE lists each frame type under its number and name."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", section(ARCHITECTURE, "The wire"), re.MULTILINE)
    assert {int(number): name for number, name in rows} == wire.NAMES


def test_the_module_table_has_every_module() -> None:
    """ARCHITECTURE says of each module what it owns, and of none that has gone."""
    table = re.findall(r"^\| (`.*?) \|", section(ARCHITECTURE, "Modules"), re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`([\w/]+\.py)`", cell)}
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    assert named == {name for name in modules if not name.endswith("/__init__.py")}


def anchors(document: str) -> set[str]:
    """Return how a document's headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", document, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    """A link within the repository names a file that is there, and a heading that it has."""
    text = (ROOT / name).read_text(encoding="utf-8")
    place = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" not in link:
            file = place / target if target else ROOT / name
            assert file.exists(), link
            assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), link
