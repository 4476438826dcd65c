"""System calls that a decoding child may make, enforced by the kernel of Linux (seccomp-bpf), without privileges."""

import ctypes
import errno
import platform
import struct
import sys

# Name, number on x86_64, number on aarch64: memory, threads, time, and the socket that is open already.
CALLS = """read 0 63, write 1 64, close 3 57, fstat 5 80, lseek 8 62, mmap 9 222, mprotect 10 226, munmap 11 215,
brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, readv 19 65, writev 20 66,
sched_yield 24 124, mremap 25 216, madvise 28 233, nanosleep 35 101, getpid 39 172, sendto 44 206, recvfrom 45 207,
exit 60 93, uname 63 160, gettimeofday 96 169, getrusage 98 165, sysinfo 99 179, sigaltstack 131 132, gettid 186 178,
futex 202 98, sched_getaffinity 204 123, restart_syscall 219 128, clock_gettime 228 113, clock_getres 229 114,
clock_nanosleep 230 115, exit_group 231 94, set_robust_list 273 99, getrandom 318 278, membarrier 324 283,
rseq 334 293"""
# Machine: column of its numbers, its AUDIT_ARCH, and its numbers of clone, prlimit64 and seccomp.
MACHINES = {"x86_64": (1, 0xC000003E, 56, 302, 317), "aarch64": (2, 0xC00000B7, 220, 261, 277)}
CLONE3 = 435
CLONE_THREAD = 0x10000
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
LOAD, EQUAL, HAS_BITS, RETURN = 0x20, 0x15, 0x45, 0x06  # of classic BPF
KILL, FAIL, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000  # what the filter returns
PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, ALL_THREADS = 38, 1, 1


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def limit_calls() -> bool:
    """Let this process compute, start threads and talk to its socket; any other system call fails with EPERM.

    Returns:
        `bool`: Whether the kernel does so: not on other systems, and not where seccomp is switched off.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES or sys.maxsize < 2**32:
        return False
    column, arch, clone, prlimit, seccomp = MACHINES[platform.machine()]
    refuse, allow = (RETURN, 0, 0, FAIL | errno.EPERM), (RETURN, 0, 0, ALLOW)
    steps = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    for call in CALLS.split(","):
        steps += [(EQUAL, 0, 1, int(call.split()[column])), allow]
    # Of clone3, a filter does not see the flags; without it, the C library takes clone.
    steps += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, FAIL | errno.ENOSYS)]
    steps += [(EQUAL, 0, 4, clone), (LOAD, 0, 0, FIRST_ARGUMENT), (HAS_BITS, 0, 1, CLONE_THREAD), allow, refuse]
    steps += [(EQUAL, 0, 4, prlimit), (LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 0, 1, 0), allow, refuse]  # of itself only
    code = b"".join(struct.pack("=HBBI", *step) for step in [*steps, refuse])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    program = _Program(len(code) // 8, code)
    return bool(libc.syscall(seccomp, SET_MODE_FILTER, ALL_THREADS, ctypes.byref(program)) == 0)
