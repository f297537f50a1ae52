"""Which system calls a compute may make: a list of what PostgreSQL needs, and nothing else.

A call that is not listed answers ENOSYS, so that a C library which tries a newer call first falls back to the older
one. Calls that only an attacker would make answer EPERM: the difference shows in a trace. Three rules go beyond names:

- memory is never writable and executable, and nothing becomes executable but a file mapped so. Together with the
  noexec mounts around it, a compute runs the engine's own code or none;
- the only sockets are Unix sockets;
- no symbolic links: whoever connects to a compute must not be led to another socket by one (see also `mounts.py`).

The list is compiled by libseccomp, which knows the numbers of every architecture, once per process, into a memfd that
bubblewrap loads just before it starts the command.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from cloister.base.errors import PreconditionError

_FILES: Final = (
    "open openat openat2 creat close close_range read write pread64 pwrite64 readv writev preadv pwritev preadv2 "
    "pwritev2 lseek stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 getdents getdents64 "
    "mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat readlink readlinkat truncate ftruncate "
    "fallocate fadvise64 fsync fdatasync sync_file_range syncfs copy_file_range sendfile utime utimes utimensat "
    "futimesat umask getcwd chdir fchdir fcntl flock dup dup2 dup3 pipe pipe2"
).split()
_MEMORY: Final = "munmap mremap madvise brk mincore msync membarrier get_mempolicy shmget shmctl shmdt".split()
_SEMAPHORES: Final = "semget semop semctl semtimedop futex set_robust_list get_robust_list rseq".split()
_PROCESSES: Final = (
    "fork vfork execve exit exit_group wait4 waitid getpid getppid gettid getpgid getpgrp setpgid getsid setsid kill "
    "tgkill getuid geteuid getgid getegid getgroups getresuid getresgid set_tid_address arch_prctl sched_yield "
    "sched_getaffinity getcpu getrlimit setrlimit prlimit64 getrusage times sysinfo uname getpriority setpriority"
).split()
_BECOMING_NOBODY: Final = "setuid setgid setreuid setregid setresuid setresgid setgroups capget capset".split()
# For setpriv, which gives up root between bubblewrap and PostgreSQL. Without capabilities they change nothing.
_SIGNALS_AND_TIME: Final = (
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigpending rt_sigtimedwait sigaltstack signalfd4 "
    "restart_syscall pause alarm setitimer getitimer clock_gettime clock_getres gettimeofday time nanosleep "
    "clock_nanosleep"
).split()
_WAITING: Final = (
    "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 getrandom"
).split()
_SOCKETS: Final = (
    "bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt sendto recvfrom sendmsg recvmsg "
    "shutdown"
).split()

ALLOWED: Final = frozenset(
    [*_FILES, *_MEMORY, *_SEMAPHORES, *_PROCESSES, *_BECOMING_NOBODY, *_SIGNALS_AND_TIME, *_WAITING, *_SOCKETS]
)

REFUSED: Final = frozenset(
    (
        "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_open pidfd_getfd pidfd_send_signal "
        "bpf perf_event_open userfaultfd keyctl add_key request_key "
        "io_uring_setup io_uring_enter io_uring_register io_setup io_submit "
        "mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr "
        "unshare setns name_to_handle_at open_by_handle_at "
        "execveat memfd_create memfd_secret pkey_mprotect remap_file_pages personality "
        "symlink symlinkat mknod mknodat chown lchown fchown fchownat "
        "setxattr lsetxattr fsetxattr "
        "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff quotactl quotactl_fd "
        "acct syslog settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname iopl ioperm "
        "mq_open mq_unlink msgget vhangup modify_ldt lookup_dcookie nfsservctl fanotify_init "
        "sched_setscheduler sched_setattr ioprio_set mlock mlock2 mlockall migrate_pages move_pages mbind set_mempolicy"
    ).split()
)

PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
MAP_ANONYMOUS: Final = 0x20
SHM_EXEC: Final = 0o100000
SET_ID_BITS: Final = 0o6000
CLONE_NEW_ANY: Final = 0x7E020000
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
TERMINAL_AND_FLAG_IOCTLS: Final = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)
# TCGETS (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: no file system's own calls, no TIOCSTI.
PRCTLS: Final = (1, 2, 8, 15, 16, 23, 24, 27, 38, 39, 47)
# PDEATHSIG (how a backend notices that the postmaster died), NAME, and what setpriv gives up: KEEPCAPS, the bounding
# and ambient sets, SECUREBITS read, NO_NEW_PRIVS.

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_NE, _EQ, _MASKED_EQ = 1, 4, 7


@dataclass(frozen=True, slots=True)
class Condition:
    """About one argument of a call: `value & mask == wanted`, or, without a mask, equal or unequal."""

    argument: int
    wanted: int
    mask: int | None = None
    is_equal: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    action: int
    call: str
    conditions: tuple[Condition, ...] = ()


def rules() -> Iterator[Rule]:
    """The whole policy; what no rule matches is ENOSYS."""
    refuse = _ERRNO | errno.EPERM
    yield from (Rule(_ALLOW, call) for call in sorted(ALLOWED))
    yield from (Rule(refuse, call) for call in sorted(REFUSED))

    # (1) Only Unix sockets.
    for call in ("socket", "socketpair"):
        yield Rule(_ALLOW, call, (Condition(0, socket.AF_UNIX),))
        yield Rule(refuse, call, (Condition(0, socket.AF_UNIX, is_equal=False),))

    # (2) New processes, no new namespaces. clone3 hides its flags in memory, where no filter can look: ENOSYS, and the
    # C library uses clone.
    yield Rule(_ALLOW, "clone", (Condition(0, 0, mask=CLONE_NEW_ANY),))

    # (3) Executable memory only from a file, and not writable.
    yield Rule(_ALLOW, "mmap", (Condition(2, 0, mask=PROT_EXEC),))
    yield Rule(_ALLOW, "mmap", (Condition(2, 0, mask=PROT_WRITE), Condition(3, 0, mask=MAP_ANONYMOUS)))
    yield Rule(_ALLOW, "mprotect", (Condition(2, 0, mask=PROT_EXEC),))
    yield Rule(_ALLOW, "shmat", (Condition(2, 0, mask=SHM_EXEC),))

    # (4) No set-id bits, no ioctl but the harmless, no prctl but the needed.
    yield Rule(_ALLOW, "chmod", (Condition(1, 0, mask=SET_ID_BITS),))
    yield Rule(_ALLOW, "fchmod", (Condition(1, 0, mask=SET_ID_BITS),))
    yield Rule(_ALLOW, "fchmodat", (Condition(2, 0, mask=SET_ID_BITS),))
    yield from (Rule(_ALLOW, "ioctl", (Condition(1, request),)) for request in TERMINAL_AND_FLAG_IOCTLS)
    yield from (Rule(_ALLOW, "prctl", (Condition(0, option),)) for option in PRCTLS)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def _comparison(condition: Condition) -> _Comparison:
    if condition.mask is not None:
        return _Comparison(condition.argument, _MASKED_EQ, condition.mask, condition.wanted)
    return _Comparison(condition.argument, _EQ if condition.is_equal else _NE, condition.wanted, 0)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise PreconditionError(str(error), public="libseccomp.so.2 is missing: install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


@cache
def compile_filter() -> bytes:
    """The policy as a BPF program for this machine. Raises PreconditionError where libseccomp is missing."""
    library = _library()
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)
    if not context:
        raise PreconditionError("seccomp_init failed", public="libseccomp cannot make a filter on this machine")
    try:
        for rule in rules():
            number = library.seccomp_syscall_resolve_name(rule.call.encode())
            if number < 0:
                continue  # An older libseccomp or another architecture does not have it: it stays ENOSYS.
            comparisons = (_Comparison * max(1, len(rule.conditions)))(*map(_comparison, rule.conditions))
            result = library.seccomp_rule_add_array(context, rule.action, number, len(rule.conditions), comparisons)
            if result != 0:
                raise PreconditionError(f"seccomp rule for {rule.call}: {os.strerror(-result)}")
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            if (result := library.seccomp_export_bpf(context, fd)) != 0:
                raise PreconditionError(f"seccomp_export_bpf: {os.strerror(-result)}")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
    finally:
        library.seccomp_release(context)


def open_filter() -> int:
    """A new descriptor at the start of the compiled policy; bubblewrap reads it to its end. The caller closes it."""
    program = compile_filter()
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, program)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
