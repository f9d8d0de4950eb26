"""Built engines on disk. A plan is native code, so nobody else may write where they lie.

A plan is kept under the hash of all that it depends on, with a JSON file beside it that says what
that is and what the plan's own hash is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rwcnet_runtime.bundle import read_small, sha256
from rwcnet_runtime.errors import BackendError, InputError

# Of the facts and the files; part of every key, so that plans of another one are not found.
SCHEMA_VERSION = 2
WAIT_S = 3600.0
_LOCK, _SCRATCH = ".lock", ".building-"


def default_folder() -> Path:
    """Return ``plans`` in RWCNET_CACHE, or in ``rwcnet`` where users keep caches."""
    own = os.environ.get("RWCNET_CACHE")
    if own:
        return Path(own).absolute() / "plans"
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "rwcnet" / "plans"


@dataclass(frozen=True)
class Plan:
    """A built engine in the cache.

    Attributes
    ----------
    path
        The serialised engine.
    sha256
        Of its bytes.
    facts
        What it was built from and for; their hash is its name.
    summary
        What is in it, see `rwcnet_runtime.engines.build.build`.
    """

    path: Path
    sha256: str
    facts: dict[str, Any]
    summary: dict[str, Any]

    def read(self) -> bytes:
        """Return the serialised engine, for a deserialiser: only what was built here.

        Raises
        ------
        BackendError
            If it is not the file that was kept.
        """
        data = self.path.read_bytes() if self.path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise BackendError(
                f"the plan {self.path} is damaged (its sha256 differs): build it again with "
                "rwcnet-export --compile"
            )
        return data


def key(facts: Mapping[str, Any]) -> str:
    """Return the hash of facts, whatever their order: the sha256 of their canonical JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class PlanCache:
    """A folder of plans that only its owner can use.

    Parameters
    ----------
    folder
        By default `default_folder`. Made if it is not there.

    Raises
    ------
    InputError
        If it cannot be made, or others could write to it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the cache {self.folder} ({error.strerror}): set RWCNET_CACHE to a "
                "folder of yours"
            ) from error
        found = self.folder.stat()
        mode = stat.S_IMODE(found.st_mode)
        # Windows has neither of the two, and keeps a user's folders to the user.
        if hasattr(os, "getuid") and (found.st_uid != os.getuid() or mode & 0o077):
            raise InputError(
                f"the cache {self.folder} is not yours alone (owner {found.st_uid}, mode "
                f"{mode:04o}), and engines are native code: chmod 700 it, or set RWCNET_CACHE to a "
                "folder of yours"
            )

    def plans(self) -> list[Plan]:
        """Return all plans that can be read about, the newest first; none is checked."""
        found = (self._about(path) for path in self.folder.glob("*.json"))
        plans = [plan for plan in found if plan is not None and plan.path.is_file()]
        return sorted(plans, key=lambda plan: plan.path.stat().st_mtime, reverse=True)

    def find(self, facts: Mapping[str, Any]) -> Plan | None:
        """Return the plan built from these facts, or None.

        Raises
        ------
        BackendError
            If there is one, and it is damaged.
        """
        about = self.folder / f"{key(facts)}.json"
        if not about.is_file():
            return None
        plan = self._about(about)
        if plan is None or plan.facts != facts:
            raise BackendError(f"{about} is damaged: build the engine again")
        plan.read()
        return plan

    def keep(self, facts: Mapping[str, Any], built: Path, summary: Mapping[str, Any]) -> Plan:
        """Move a built engine into the cache.

        Parameters
        ----------
        facts
            What it was built from and for: plain values, sequences as lists.
        built
            The serialised engine, in what `building` gave.
        summary
            What is in it.
        """
        path = self.folder / f"{key(facts)}.plan"
        plan = Plan(path, sha256(built), dict(facts), dict(summary))
        about = {"sha256": plan.sha256, "facts": plan.facts, "summary": plan.summary}
        written = built.with_suffix(".json")
        written.write_text(json.dumps(about, indent=2) + "\n")
        # The plan first: until the other one comes, it is not found, or refused.
        built.replace(path)
        written.replace(path.with_suffix(".json"))
        return plan

    @contextmanager
    def building(self, say: Callable[[str], None], wait_s: float = WAIT_S) -> Iterator[Path]:
        """Give an empty folder on the disk of the cache to one process at a time.

        Others wait: two builds at once would spoil each other's measured times. One lock file
        serves the whole cache and stays, since to remove the file of a lock lets two processes
        hold it, one of them on the removed file.

        Parameters
        ----------
        say
            Called with one line when there is another process to wait for.
        wait_s
            How long to wait, in seconds.

        Raises
        ------
        BackendError
            If the other one is still at it then.
        """
        lock = FileLock(self.folder / _LOCK)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            say("another process builds an engine: waiting for it")
            try:
                held = lock.acquire(timeout=wait_s)
            except Timeout as error:
                raise BackendError(
                    f"another process has been building engines for {wait_s:g} s: wait for it, or "
                    "end it and try again"
                ) from error
        with held:
            # Whoever made these was killed, for they are made and removed under the lock.
            for orphan in self.folder.glob(f"{_SCRATCH}*"):
                shutil.rmtree(orphan, ignore_errors=True)  # the next one tries again
            # A new name each time: a child that outlived its parent writes into a removed folder.
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self.folder) as name:
                yield Path(name)

    def _about(self, path: Path) -> Plan | None:
        """Return the plan a JSON file is about, or None if it is none, or of another schema."""
        try:
            about = json.loads(read_small(path))
            facts = about["facts"]
            # What does not hash to its name was not written here, and may lack anything.
            if facts["schema"] != SCHEMA_VERSION or key(facts) != path.stem:
                return None
            return Plan(path.with_suffix(".plan"), about["sha256"], facts, about["summary"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
