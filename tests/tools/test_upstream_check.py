"""patches/upstream: what the checker reports of a made-up project and vLLM."""

from __future__ import annotations

import pytest
from ours import OurCode

from tests.tools.upstream_project import OURS, SURFACE, Project


def test_identical_sources_are_as_recorded(project: Project) -> None:
    status, output = project.check()
    assert (status, output.splitlines()[-1]) == (0, "  as recorded")


def test_a_record_reads_as_the_source_does(project: Project) -> None:
    record = project.home.record("1.0.0")
    assert record is not None
    names = record.names
    assert names["vllm:Engine"]["defined_in"] == "vllm.engine:Engine"
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


def test_a_record_has_one_line_for_each_name(project: Project) -> None:
    lines = (project.home.upstream / "1.0.0.json").read_text().splitlines()
    assert lines[3] == ' "names": {'
    assert lines[4].startswith('  "vllm.handlers:Handler": {"kind": "class", ')
    assert len(lines) == len(project.home.record("1.0.0").names) + 6


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
            ["missing: vllm.handlers:Handler.width", "read: how wide"],
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
    stale = OurCode(project.home.packages, project.home.root).unused(project.home.surface())
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
