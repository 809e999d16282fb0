"""A file that is on its way: its bytes so far on disk, and what they hash to.

Owns the folder of one order and what lies in it; knows nothing of HTTP. All of it blocks: for
worker threads, one at a time for each file.

    lock           held by the process that works here
    order.json     what is being fetched, without addresses
    part/<name>    a file's first bytes
    etag/<name>    which content of its server those are
    files/<name>   a file that is whole and checked
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path

import msgspec

from rbee.errors import DownloadFailed, InsufficientDisk
from rbee.models.hashing import STEP, Hasher
from rbee.models.transfer_names import check_name
from rbee.protocol.base import encode
from rbee.protocol.models import CatalogueFile, DownloadOrder, PlannedFile

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE = 0o700


class Partial:
    """One file of the order whose folder is `folder`. `have` bytes of it are here."""

    def __init__(self, folder: Path, planned: PlannedFile) -> None:
        name = check_name(planned.name)
        self.planned = planned
        self.have = 0
        self.etag: str | None = None
        self.whole = folder / "files" / name
        self._path = folder / "part" / name
        self._etag_path = folder / "etag" / name
        self._fd = -1
        self._hasher = self._fresh()
        self._hashed = 0
        self._finished: CatalogueFile | None = None

    def _fresh(self) -> Hasher:
        only_git = self.planned.git_sha1 is not None and self.planned.sha256 is None
        return Hasher(self.planned.size if only_git else None)

    def already(self) -> CatalogueFile | None:
        """What an earlier run has finished, which is only done with what is right."""
        try:
            size = self.whole.stat().st_size
        except OSError:
            return None
        if size != self.planned.size or self.planned.sha256 is None:
            return None
        return CatalogueFile(name=self.planned.name, size=size, sha256=self.planned.sha256)

    def open(self) -> None:
        """Find what is here. `have` is told at once, but the hash lacks it: see `hash_more`."""
        if (finished := self.already()) is not None:
            self._finished, self.have, self._hashed = finished, finished.size, finished.size
            return
        with told(self.planned.name):
            for path in (self._path, self._etag_path, self.whole):
                path.parent.mkdir(mode=_MODE, parents=True, exist_ok=True)
            status = os.fstat(self._file())
            self.have = status.st_size
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                self.etag = self._etag_path.read_text("ascii")[:1024] or None
        theirs = status.st_nlink > 1 and not self.complete  # a link whose owner has cut it short
        if self.have > self.planned.size or theirs or not (self.etag or self.known):
            self.restart()

    def _file(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, _FLAGS, 0o600)
        return self._fd

    @property
    def known(self) -> bool:
        """Whether a hash will tell that the bytes are right."""
        return self.planned.sha256 is not None or self.planned.git_sha1 is not None

    @property
    def complete(self) -> bool:
        """All bytes are here, right or wrong."""
        return self.have == self.planned.size

    def close(self) -> None:
        """Keep what is here for another time; any other call opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def hash_more(self, most: int = 16 * STEP) -> bool:
        """Hash up to `most` of the bytes that were here before; True when none is left."""
        end = min(self.have, self._hashed + most)
        with told(self.planned.name):
            while self._hashed < end:
                data = os.pread(self._file(), min(STEP, end - self._hashed), self._hashed)
                if not data:
                    raise OSError(errno.EIO, "became shorter")
                self._hasher.update(data)
                self._hashed += len(data)
        return self._hashed == self.have

    def restart(self) -> None:
        """Begin anew, with nothing."""
        with told(self.planned.name):
            self.close()
            self._path.unlink(missing_ok=True)  # never cut short: it may be a link to another's
            self._fd = os.open(self._path, _FLAGS | os.O_EXCL, 0o600)
            self._etag_path.unlink(missing_ok=True)
        self.have, self._hashed, self.etag, self._hasher = 0, 0, None, self._fresh()

    def mark(self, etag: str | None) -> None:
        """The bytes from here on belong to this content of the server."""
        if etag == self.etag:
            return
        with told(self.planned.name):
            if etag is None:
                self._etag_path.unlink(missing_ok=True)
            else:
                self._etag_path.write_text(etag, "ascii")
        self.etag = etag

    def write(self, blocks: Iterable[bytes]) -> None:
        """Append. Raises InsufficientDisk or DownloadFailed; what fitted is kept and counted."""
        data = memoryview(b"".join(blocks))
        with told(self.planned.name, self):
            while data:
                count = os.pwrite(self._file(), data, self.have)
                if self._hashed == self.have:
                    self._hasher.update(data[:count])
                    self._hashed += count
                self.have += count
                data = data[count:]

    def difference(self) -> tuple[str, str] | None:
        """What was expected and what came instead; None when they agree or nothing is expected."""
        if self._finished is not None:
            return None
        if (want := self.planned.sha256) is not None:
            return None if want == self._hasher.sha256 else (want, self._hasher.sha256)
        got = self._hasher.git_sha1
        want = self.planned.git_sha1
        return None if want is None or got is None or want == got else (want, got)

    def finish(self) -> CatalogueFile:
        """Put it among the whole files; it is complete and has been compared."""
        if self._finished is not None:
            return self._finished
        with told(self.planned.name, self):
            os.fsync(self._file())
            self.close()
            self._path.replace(self.whole)
            self._etag_path.unlink(missing_ok=True)
        self._finished = CatalogueFile(
            name=self.planned.name, size=self.planned.size, sha256=self._hasher.sha256
        )
        return self._finished

    def adopt(self, source: Path) -> bool:
        """Take a file of this machine by a hard link; False where the disk does not allow it.

        It is hashed like everything that was here before, so a wrong one is only lost time.
        """
        try:
            real = source.resolve(strict=True)
            if real.stat().st_size != self.planned.size or not self.known:
                return False
            self._path.parent.mkdir(mode=_MODE, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            os.link(real, self._path)
        except OSError:
            return False
        return True


@contextlib.contextmanager
def told(name: str, growing: Partial | None = None) -> Generator[None]:
    """What the disk refuses becomes an error for people."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL and growing is not None:
            raise full(growing.planned.size - growing.have, growing.whole.parent) from exc
        raise DownloadFailed(
            f"{name} cannot be kept on this machine's disk: {exc.strerror}",
            action="Check the models folder and its disk, then ask for it again.",
            attempts=1,
        ) from exc


class Folder:
    """The folder of one order, held by this process alone while the block runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def hold(self, order: DownloadOrder) -> bool:
        """Make and lock it; False while another process has it. Raises DownloadFailed."""
        with told(order.model_id):
            self.path.mkdir(mode=_MODE, parents=True, exist_ok=True)
            lock, fd = self.path / "lock", -1
            try:
                fd = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = os.path.samestat(os.fstat(fd), lock.stat())  # not of a removed folder
            except (BlockingIOError, FileNotFoundError):
                mine = False
            if not mine:
                if fd >= 0:
                    os.close(fd)
                return False
            self._fd = fd
            bare = [msgspec.structs.replace(f, url="", content=None) for f in order.files]
            note = encode(msgspec.structs.replace(order, files=bare))
            (self.path / "order.json").write_bytes(note)
        return True

    def release(self) -> None:
        """Let others have it; what is in it stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def publish(self, place: Path) -> Path:
        """Move all whole files to their place at once, and remove the rest. Raises DownloadFailed.

        `place` is a file or a folder; what is there already is replaced.
        """
        with told(place.name):
            place.parent.mkdir(mode=_MODE, parents=True, exist_ok=True)
            files = self.path / "files"
            inside = [path for path in files.rglob("*") if path.is_file()]
            if len(inside) == 1 and place.is_dir():
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            if len(inside) == 1:
                inside[0].replace(place)
            else:
                if place.exists():
                    place.replace(self.path / "replaced")
                files.replace(place)
            _sync(place.parent)
        self.remove()
        return place

    def remove(self) -> None:
        """With everything that is in it."""
        discard(self.path)


def discard(folder: Path) -> bool:
    """Remove a folder whose lock is held; whether it is gone. Whoever wants one of that name next
    never finds it half removed."""
    aside = folder.with_name(f"gone-{secrets.token_hex(8)}")
    try:
        folder.replace(aside)
    except OSError:
        aside = folder
    shutil.rmtree(aside, ignore_errors=True)
    return not aside.exists()


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def full(need: int, folder: Path) -> InsufficientDisk:
    """`need` more bytes do not go into the folder's disk."""
    free = shutil.disk_usage(folder).free
    return InsufficientDisk(
        f"{_mb(need)} more are needed in the models folder, {_mb(free)} are free",
        action="Free some space (`rbee model gc` shows what can go) or move the models folder with"
        " `models.dir`; what was fetched is kept, and it goes on from there.",
        required=need,
        available=free,
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
