"""Starts a command that reaches little, and ends everything that it leaves behind. Linux only.

``python -I -S confine.py OPTION=VALUE ... -- COMMAND ...``. The command runs in a session of its
own, as a child of this process: with the limits and without the rights that the options say. This
process waits for it, kills every process that it has left (those too that made a session of their
own), and ends as the command did. When its parent has died it kills all after some seconds.

Options: ``read``, ``list`` and ``write`` (a path, each may come often: once one is there, files
elsewhere cannot be opened), ``network`` (``none``, ``local``: Unix sockets alone, ``all``),
``address_space``, ``file_size``, ``open_files`` (limits of one process).

Standard library alone, and little of it: this is part of the start of every run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False  # the module typing costs as much as all of the work here
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE = 22, 36, 4
SIGKILL = 9  # of every Linux; the module signal costs more than all else here
LAST_CAPABILITY = 63
ORPHAN_S = 5  # a child whose worker is gone leaves by itself before

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
MAKE_DEVICES = 1 << 6 | 1 << 11
RIGHTS_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # by version of the interface
READS, LISTS = EXECUTE | READ_FILE | READ_DIR, READ_DIR
WRITES = RIGHTS[3] & ~EXECUTE & ~MAKE_DEVICES
KIND_OF_FILE, FOLDER = 0o170000, 0o040000
TCP, SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals of others

AF_UNIX, EPERM, EACCES = 1, 1, 13
# what a method never calls: numbers on x86_64 and aarch64 (-1: not there)
REFUSED = {
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "mount": (165, 40),
    "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "init_module": (175, 105),
    "finit_module": (313, 273),
}  # fmt: skip
SOCKET = (41, 198)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, name in a filter


def landlock_version() -> int:
    """Version of the kernel's Landlock, 0 without it."""
    if sys.platform != "linux":
        return 0
    return max(0, int(LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))


def can_filter() -> bool:
    """Whether system calls can be filtered here: Linux on x86_64 or aarch64."""
    return sys.platform == "linux" and os.uname().machine in MACHINES


def hide_memory() -> None:
    """Let no other process of this user read memory or environment of this one, nor its core."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


# -- what the command may not do -------------------------------------------------------------------


def confine(options: Sequence[tuple[str, str]]) -> None:
    """Give up rights of this process and of all that it starts; it cannot get them back."""
    for name, value in options:
        if limit := LIMITS.get(name):
            resource.setrlimit(limit, (int(value), int(value)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _first_for_the_memory_killer()
    _checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if os.geteuid() == 0:
        _drop_capabilities()
    network = dict(options).get("network", "all")
    paths = [(name, value) for name, value in options if name in PATHS]
    if paths and landlock_version():
        _restrict_paths(paths, tcp=network != "all")
    if can_filter():
        _filter_calls(network)


PATHS = {"read": READS, "list": LISTS, "write": WRITES}
LIMITS = {
    "address_space": resource.RLIMIT_AS,
    "file_size": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
}


def _first_for_the_memory_killer() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  # pathlib costs time
            file.write("500")
    except OSError:
        return  # a container may forbid it


def _drop_capabilities() -> None:
    """Root without its privileges: it still owns the files of root, but reads no other memory."""
    for capability in range(LAST_CAPABILITY):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _checked(LIBC.capset(header, nothing))


def _restrict_paths(paths: Sequence[tuple[str, str]], *, tcp: bool) -> None:
    version = landlock_version()
    handled = RIGHTS[min(version, 3)]
    attributes = struct.pack("QQQ", handled, TCP if tcp else 0, SCOPES)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _checked(LIBC.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0))
    for name, path in paths:
        _allow(ruleset, PATHS[name] & handled, path)
    _checked(LIBC.syscall(LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, rights: int, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine
    if os.fstat(descriptor).st_mode & KIND_OF_FILE != FOLDER:
        rights &= RIGHTS_OF_FILES
    rule = struct.pack("=Qi", rights, descriptor)
    _checked(LIBC.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0))
    os.close(descriptor)


def _filter_calls(network: str) -> None:
    """A seccomp filter: some calls fail with EPERM, sockets with EACCES."""
    program = b"".join(struct.pack("HBBI", *line) for line in _filter(network))
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _checked(LIBC.prctl(PR_SET_SECCOMP, 2, described, 0, 0))


def _filter(network: str) -> Iterator[tuple[int, int, int, int]]:
    """Instructions: code, lines to skip if so, if not so, value."""
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse, refuse_socket = 0x7FFF0000, 0x00050000 | EPERM, 0x00050000 | EACCES
    column, machine = MACHINES[os.uname().machine]
    yield load, 0, 0, 4  # the machine of the call: another one has other numbers
    yield equal, 1, 0, machine
    yield answer, 0, 0, refuse
    yield load, 0, 0, 0  # the number of the call
    if column == 0:
        yield at_least, 0, 1, 0x40000000  # the x32 numbers of x86_64
        yield answer, 0, 0, refuse
    for numbers in REFUSED.values():
        if numbers[column] >= 0:
            yield equal, 0, 1, numbers[column]
            yield answer, 0, 0, refuse
    if network != "all":
        yield equal, 0, 4, SOCKET[column]
        yield load, 0, 0, 16  # its first argument, the family
        yield equal, 0, 1, AF_UNIX if network == "local" else 0xFFFF
        yield answer, 0, 0, allow
        yield answer, 0, 0, refuse_socket
    yield answer, 0, 0, allow


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# -- its life --------------------------------------------------------------------------------------


def main() -> None:
    """Start the command of the command line and end as it does."""
    end = sys.argv.index("--")
    options = [
        (name, value) for name, _, value in (word.partition("=") for word in sys.argv[1:end])
    ]
    command = sys.argv[end + 1 :]
    parent = os.getppid()
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        _become(options, command)
    os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # they are the command's
    status = _wait(child, parent)
    _end_leftovers()
    _end_as(status)


def _become(options: Sequence[tuple[str, str]], command: list[str]) -> None:
    try:
        os.setsid()
        LIBC.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        confine(options)
        os.execvp(command[0], command)  # noqa: S606  # our own command
    except OSError as error:
        os.write(2, f"the process could not be confined and was not started: {error}\n".encode())
    os._exit(70)


def _wait(child: int, parent: int) -> int:
    """Status of the child once it has ended; kills it when the parent has been gone for long."""
    watched = select.poll()
    if hasattr(os, "pidfd_open"):
        watched.register(os.pidfd_open(child), select.POLLIN)  # else its end is seen a second late
    gone_s = 0
    while True:
        for pid, status in _ended():
            if pid == child:
                return status
        gone_s += os.getppid() != parent
        if gone_s > ORPHAN_S:
            _kill_descendants()
        watched.poll(1000)


def _ended() -> Iterator[tuple[int, int]]:
    """Processes that have ended since, with their status."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def _end_leftovers() -> None:
    """Kill what is left, until nothing is: orphans become children of this process."""
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            _kill_descendants()
            os.waitpid(-1, 0)


def _kill_descendants() -> None:
    for pid in _descendants(os.getpid()):
        try:
            os.kill(pid, SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(root: int) -> list[int]:
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  # pathlib costs time
        try:
            with open(f"/proc/{name}/stat") as file:  # noqa: PTH123
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    family = [root]
    for pid in family:  # grows meanwhile
        family += [each for each, parent in parents.items() if parent == pid]
    return family[1:]


def _end_as(status: int) -> None:
    """End by the signal or the code of the command."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(128 + os.WTERMSIG(status))  # one that Python ignores
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
