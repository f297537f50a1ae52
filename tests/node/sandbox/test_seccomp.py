"""The policy as text. That the kernel enforces it is seen in tests/attacks/test_sandbox_escape.py."""

import os
import struct

from cloister.node.sandbox import seccomp


def test_nothing_is_both_allowed_and_refused() -> None:
    assert not seccomp.ALLOWED & seccomp.REFUSED


def test_what_leads_out_of_a_sandbox_is_never_allowed_without_a_condition() -> None:
    unconditional = {rule.call for rule in seccomp.rules() if rule.action == seccomp._ALLOW and not rule.conditions}
    dangerous = (
        "ptrace process_vm_readv bpf keyctl add_key mount umount2 pivot_root chroot unshare setns userfaultfd "
        "perf_event_open io_uring_setup kexec_load init_module finit_module open_by_handle_at execveat memfd_create "
        "personality symlink symlinkat socket socketpair clone clone3 mmap mprotect shmat ioctl prctl chmod fchmod mknod"
    ).split()
    assert not unconditional & set(dangerous)


def test_conditions_on_memory_exclude_every_way_to_have_it_writable_and_executable() -> None:
    def allows(protection: int, flags: int) -> bool:
        arguments = {2: protection, 3: flags}
        return any(
            all(arguments[c.argument] & (c.mask or 0) == c.wanted for c in rule.conditions)
            for rule in seccomp.rules()
            if rule.call == "mmap" and rule.action == seccomp._ALLOW
        )

    read, write, execute, private, anonymous = 1, seccomp.PROT_WRITE, seccomp.PROT_EXEC, 2, seccomp.MAP_ANONYMOUS
    assert allows(read | write, private | anonymous)
    assert allows(read | execute, private)
    assert not allows(read | write | execute, private | anonymous)
    assert not allows(read | execute, private | anonymous)
    assert not allows(read | write | execute, private)


def test_the_filter_is_a_bpf_program_and_read_from_its_start() -> None:
    program = seccomp.compile_filter()
    assert len(program) % 8 == 0
    instructions = list(struct.iter_unpack("=HBBI", program))
    assert instructions[0][0] == 0x20  # It begins with loading the architecture,
    assert instructions[0][3] == 4
    returned = {value for code, _, _, value in instructions if code == 0x06}
    assert 0x7FFF0000 in returned
    assert 0x00050000 | 38 in returned  # and ends in ENOSYS for what it does not know.
    fd = seccomp.open_filter()
    try:
        assert os.read(fd, len(program) + 1) == program
    finally:
        os.close(fd)
