import stat
import subprocess
import sys
from pathlib import Path

import pytest

from embedded import files


def test_a_private_file_is_its_owners_alone_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    files.write_private(path, b"a much longer first content")
    files.write_private(path, b"second", durable=False)
    assert b"second" == path.read_bytes()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_content_and_no_debris(tmp_path: Path) -> None:
    directory = tmp_path / "in_the_way"
    directory.mkdir()
    with pytest.raises(OSError, match="in_the_way"):
        files.write_private(directory, b"content")
    assert [directory] == list(tmp_path.iterdir())


def test_a_generated_secret_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    first = files.generated_secret(path, prefix="whsec_")
    assert first.startswith("whsec_")
    assert len(first) > 40
    assert first == files.generated_secret(path, prefix="whsec_")


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    open_one, made = tmp_path / "open", tmp_path / "made"
    open_one.mkdir(mode=0o755)
    files.make_private_directory(open_one)
    files.make_private_directory(made)
    assert 0o755 == stat.S_IMODE(open_one.stat().st_mode)
    assert 0o700 == stat.S_IMODE(made.stat().st_mode)


def test_a_lock_is_held_once_and_its_error_names_the_holder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from embedded import files\n"
        "with files.exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    lock = tmp_path / "suite.lock"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert "held\n" == holder.stdout.readline()
        with pytest.raises(files.DataDirectoryBusyError, match=f"{tmp_path}.* pid {holder.pid}"), files.exclusive(lock):
            pass
        holder.kill()
    # The file is still there; the lock died with its holder.
    with files.exclusive(lock):
        assert lock.exists()
