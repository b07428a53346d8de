//! The system calls that a sandbox refuses, as the hosts do that apps run on.

/// A system call that a sandbox refuses with `EPERM`, as the hosts do that apps run on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Forbidden {
    /// New user namespaces, as Docker's default seccomp profile refuses them.
    UserNamespaces,
    /// `ptrace`, as Heroku's Cedar refuses it.
    Ptrace,
    /// `setns`, which takes more than to make a namespace does: `CAP_SYS_CHROOT`.
    EnterNamespaces,
}

/// A seccomp filter (classic BPF, `struct sock_filter` in this machine's byte order) that answers
/// the forbidden calls with `EPERM`, and `clone3`, whose flags no filter can read, with `ENOSYS`,
/// as Docker's default profile does.
pub(super) fn filter(forbidden: &[Forbidden]) -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const EPERM: u32 = 1;
    const ENOSYS: u32 = 38;
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    const CLONE_NEWUSER: u32 = 0x1000_0000;
    let [clone, unshare, ptrace, setns] = if cfg!(target_arch = "aarch64") {
        [220, 97, 117, 268]
    } else {
        [56, 272, 101, 308]
    };
    let clone3 = 435;

    let mut program: Vec<(u16, u8, u8, u32)> = vec![(LOAD, 0, 0, NUMBER)];
    if forbidden.contains(&Forbidden::Ptrace) {
        program.extend([(EQUAL, 0, 1, ptrace), (RETURN, 0, 0, ERRNO | EPERM)]);
    }
    if forbidden.contains(&Forbidden::EnterNamespaces) {
        program.extend([(EQUAL, 0, 1, setns), (RETURN, 0, 0, ERRNO | EPERM)]);
    }
    if forbidden.contains(&Forbidden::UserNamespaces) {
        program.extend([
            (EQUAL, 0, 1, clone3),
            (RETURN, 0, 0, ERRNO | ENOSYS),
            (EQUAL, 1, 0, clone),
            (EQUAL, 0, 3, unshare),
            (LOAD, 0, 0, FIRST_ARGUMENT),
            (ANY_BIT, 0, 1, CLONE_NEWUSER),
            (RETURN, 0, 0, ERRNO | EPERM),
        ]);
    }
    program.push((RETURN, 0, 0, ALLOW));
    program
        .into_iter()
        .flat_map(|(code, yes, no, k)| {
            [&code.to_ne_bytes()[..], &[yes, no], &k.to_ne_bytes()].concat()
        })
        .collect()
}
