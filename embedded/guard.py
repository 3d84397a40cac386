"""Run a program that cannot outlive the process that started it.

    python -I -S guard.py PARENT_PID DEATH_SIGNAL IDENTITY PROGRAM [ARGUMENT...]

The kernel sends DEATH_SIGNAL (a number) to the program when its parent dies, by whatever means: that is
`PR_SET_PDEATHSIG`, which survives exec. PARENT_PID closes the race between fork and prctl: a parent that is
already gone is noticed, and nothing is started. IDENTITY says who the program runs as:

    same       whoever calls
    userns     uid and gid 1000 of a new user namespace: a program that refuses root (PostgreSQL) runs without
               a system user of its own
    UID:GID    this system user and group (the caller must be root)

A file of its own, on the standard library alone and run with -I -S, so that it costs milliseconds.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_NAMESPACE_ID = 1000  # any id but 0 would do
_USAGE_ERROR = 64  # EX_USAGE
_CANNOT_START = 126  # as shells say it


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - importing pathlib would double the cost of this script
        file.write(text)


def _enter_user_namespace(libc: ctypes.CDLL) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "this system refuses user namespaces")
    _write("/proc/self/setgroups", "deny")  # the kernel's condition for writing gid_map
    _write("/proc/self/uid_map", f"{_NAMESPACE_ID} {uid} 1")
    _write("/proc/self/gid_map", f"{_NAMESPACE_ID} {gid} 1")


def _become(identity: str, libc: ctypes.CDLL) -> None:
    if identity == "same":
        return
    if identity == "userns":
        _enter_user_namespace(libc)
        return
    uid, _, gid = identity.partition(":")
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))


def main(arguments: list[str]) -> int:
    """Become the identity, bind this process's life to its parent's, and exec; returns only on failure."""
    if len(arguments) < 4:
        sys.stderr.write("guard: usage: guard.py PARENT_PID DEATH_SIGNAL IDENTITY PROGRAM [ARGUMENT...]\n")
        return _USAGE_ERROR
    parent_pid, death_signal, identity, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _become(identity, libc)
        # After the change of identity: the kernel forgets the death signal whenever credentials change.
        if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != int(parent_pid):
            raise ProcessLookupError(f"the parent, pid {parent_pid}, is gone")
        # Python ignores these two, and what is ignored stays ignored across exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"guard: cannot start {command[0]}: {error}\n")
    return _CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
