"""Entries in a folder of this machine, in SQLite: kept over restarts, shared by all processes here.

SQLite rather than a library of caches over it, because those keep Python objects by pickling them: who can write to
such a folder can run code. The folder is to be on a local disk, as SQLite's log does not work over a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from orpheus.errors import SetupError

FILE = "orpheus-speech-1.sqlite3"  # another number for another schema
BUSY_S = 0.2  # how long a write waits for that of another process
PAGE_BYTES = 16 * 1024  # entries are about 100 kB
EMPTY_BYTES = 16 * PAGE_BYTES  # at most, of a file without entries
LOG_BYTES = 4_000_000  # of SQLite's write-ahead log, which is kept beside the file

# Bodies apart, so that noting a use does not write one again.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, used_s REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON entries (used_s);
CREATE TABLE IF NOT EXISTS bodies (
    id INTEGER PRIMARY KEY REFERENCES entries ON DELETE CASCADE, body BLOB NOT NULL
);
"""

T = TypeVar("T")
log = logging.getLogger(__name__)


class DiskStore:
    """The file holds at most `max_bytes`; the least recently used entries go first."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """SetupError if there can be no cache in this folder."""
        self.name = str(folder)
        self._path = folder / FILE
        self._max_bytes = max_bytes
        self.max_body_bytes = max_bytes - EMPTY_BYTES
        # SQLite blocks; and a disk that hangs must not take the threads that encode.
        self._thread = ThreadPoolExecutor(1, "orpheus-cache")
        self._late: Future[Any] = self._thread.submit(int)  # what nobody waits for any more
        try:
            self._db = self._thread.submit(self._open).result()
        except (OSError, sqlite3.Error) as error:
            self._thread.shutdown()
            reason = error.strerror if isinstance(error, OSError) else error
            raise SetupError(
                f"ORPHEUS_CACHE: {folder} cannot hold a cache ({reason}). Name a folder of a local disk that this "
                "user can write to, or unset it."
            ) from error

    async def get(self, key: str) -> bytes | None:
        found = await self._run(lambda: self._read(key))
        if found is None:
            return None
        entry, body = found
        self._thread.submit(self._note_use, entry)  # nobody waits for it
        return body

    async def put(self, key: str, entry: bytes) -> None:
        await self._run(lambda: self._write(key, entry))

    async def remove(self, key: str) -> None:
        await self._run(lambda: self._db.execute("DELETE FROM entries WHERE key = ?", (key,)))

    async def aclose(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            await self._run(self._db.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._late.done():
            raise TimeoutError("the disk hangs")  # so that nothing piles up before the thread
        doing = self._thread.submit(self._healing, work)
        try:
            return await asyncio.wrap_future(doing)
        except asyncio.CancelledError:
            if not doing.done():
                self._late = doing
            raise

    # What follows runs in the thread.

    def _healing(self, work: Callable[[], T]) -> T:
        if not self._is_there():
            self._db.close()
            self._db = self._open()
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # damaged; what passes is an OperationalError
                self._db.close()
                self._db = self._anew(error)
            raise

    def _is_there(self) -> bool:
        """False once the file was deleted: by a person, or by a process that found it damaged."""
        try:
            return os.path.samestat(self._path.stat(), self._stat)
        except FileNotFoundError:
            return False

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What is said to a listener is nobody else's; SQLite's other files get the mode of this one.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            return self._anew(error)

    def _anew(self, error: Exception) -> sqlite3.Connection:
        log.warning("%s is damaged (%s): a new one is begun", self._path, error)
        for ending in ("", "-wal", "-shm"):
            Path(f"{self._path}{ending}").unlink(missing_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
        try:
            for pragma in (
                f"page_size = {PAGE_BYTES}",
                "auto_vacuum = FULL",  # what goes is free for others at once
                "journal_mode = WAL",  # readers and a writer do not wait for each other
                f"journal_size_limit = {LOG_BYTES}",
                f"wal_autocheckpoint = {LOG_BYTES // PAGE_BYTES}",
                "synchronous = NORMAL",  # a crash may lose the last entries, never the file
                "foreign_keys = ON",
            ):
                db.execute(f"PRAGMA {pragma}")
            db.executescript(_SCHEMA)
            self._stat = self._path.stat()
            with db:  # fails here, at the start, if it cannot be written
                db.execute("BEGIN IMMEDIATE")
                db.execute("PRAGMA user_version = 1")
        except BaseException:
            db.close()
            raise
        return db

    def _read(self, key: str) -> tuple[int, bytes] | None:
        found: tuple[int, bytes] | None = self._db.execute(
            "SELECT id, body FROM entries JOIN bodies USING (id) WHERE key = ?", (key,)
        ).fetchone()
        return found

    def _note_use(self, entry: int) -> None:
        with contextlib.suppress(sqlite3.Error):  # another is writing: this use does not count
            self._db.execute("UPDATE entries SET used_s = ? WHERE id = ?", (time.time(), entry))

    def _write(self, key: str, entry: bytes) -> None:
        with self._db as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM entries WHERE key = ?", (key,))
            while self._used_bytes() + len(entry) + 2 * PAGE_BYTES > self._max_bytes:
                oldest = "DELETE FROM entries WHERE id = (SELECT id FROM entries ORDER BY used_s LIMIT 1)"
                if not db.execute(oldest).rowcount:
                    return  # larger than all there may be
            made = db.execute("INSERT INTO entries (key, used_s) VALUES (?, ?)", (key, time.time())).lastrowid
            db.execute("INSERT INTO bodies VALUES (?, ?)", (made, entry))

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)
