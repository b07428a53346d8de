//! Facts about this process and its rights, as the kernel reports them, without a judgement.

use crate::closure::bytes;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getegid, geteuid, getrlimit};
use std::ffi::OsString;
use std::fs;

/// Something that is so.
#[derive(Debug)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// All facts that this kernel reports.
pub(super) fn all(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Fact> {
    let status = read("/proc/self/status").unwrap_or_default();
    let shown = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
    let facts = [
        ("kernel", kernel()),
        ("user", Some(user())),
        ("capabilities", capabilities(&status)),
        ("seccomp", seccomp(&status)),
        ("no new rights", no_new_rights(&status)),
        ("user namespaces", user_namespaces()),
        ("ptrace", ptrace()),
        ("root directory", root_directory()),
        ("memory", memory()),
        ("open files", open_files()),
        ("process 1", read("/proc/1/comm")),
        ("HOME", shown("HOME")),
        ("LANG", shown("LANG")),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| Fact { name, value }))
        .collect()
}

/// A small file's text.
fn read(file: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_string())
}

fn kernel() -> Option<String> {
    let release = read("/proc/sys/kernel/osrelease")?;
    Some(format!("Linux {release}, {}", std::env::consts::ARCH))
}

fn user() -> String {
    let id = geteuid().as_raw();
    let users = read("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    });
    let name = name.unwrap_or("no name in /etc/passwd");
    format!("{id} ({name}), group {}", getegid().as_raw())
}

/// A value of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn capabilities(status: &str) -> Option<String> {
    let set = field(status, "CapEff")?;
    Some(match set.trim_start_matches('0') {
        "" => "none".to_string(),
        set => format!("0x{set}"),
    })
}

fn seccomp(status: &str) -> Option<String> {
    Some(match field(status, "Seccomp")? {
        "0" => "no system call is filtered".to_string(),
        "2" => "system calls are filtered".to_string(),
        other => format!("mode {other}"),
    })
}

fn no_new_rights(status: &str) -> Option<String> {
    Some(match field(status, "NoNewPrivs")? {
        "0" => "no".to_string(),
        _ => "yes: set-user-id programs have no effect".to_string(),
    })
}

fn user_namespaces() -> Option<String> {
    let most = read("/proc/sys/user/max_user_namespaces")?;
    let mut text = format!("at most {most}");
    if read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        text.push_str(", for root alone");
    }
    let restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if restricted.is_some_and(|restricted| restricted != "0") {
        text.push_str(", without rights for programs that AppArmor does not know");
    }
    Some(text)
}

fn ptrace() -> Option<String> {
    let scope = read("/proc/sys/kernel/yama/ptrace_scope")?;
    let who = match scope.as_str() {
        "0" => "a user's own processes",
        "1" => "a process's own children",
        "2" => "for administrators alone",
        _ => "for nobody",
    };
    Some(format!("{who} (ptrace_scope {scope})"))
}

fn root_directory() -> Option<String> {
    let root = statvfs("/").ok()?;
    let is_read_only = root.f_flag.contains(StatVfsMountFlags::RDONLY);
    Some(
        if is_read_only {
            "read-only"
        } else {
            "writable"
        }
        .to_string(),
    )
}

/// The limit of the control group, of either version.
fn memory() -> Option<String> {
    let limit = read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))?;
    // No limit is a word, or a number that no machine has.
    let limit = limit.parse().ok().filter(|limit| *limit < 1 << 50);
    Some(limit.map_or("no limit".to_string(), |limit: u64| {
        format!("at most {}", bytes(limit))
    }))
}

fn open_files() -> Option<String> {
    let most = getrlimit(Resource::Nofile).current?;
    Some(format!("at most {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_put_into_ours() {
        let status = "Name:\tsh\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(capabilities(status).as_deref(), Some("none"));
        assert_eq!(
            seccomp(status).as_deref(),
            Some("system calls are filtered")
        );
        assert_eq!(
            no_new_rights(status).as_deref(),
            Some("yes: set-user-id programs have no effect")
        );
        let status = "CapEff:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0\n";
        assert_eq!(capabilities(status).as_deref(), Some("0x1ffffffffff"));
        assert_eq!(no_new_rights(status).as_deref(), Some("no"));
        assert_eq!(seccomp(""), None);
    }

    #[test]
    fn what_is_told_here_has_a_name_and_a_value() {
        let facts = all(|_| Some("/home/heroku".into()));
        assert!(facts.iter().any(|fact| fact.name == "user"));
        assert!(facts.iter().all(|fact| !fact.value.contains('\n')));
    }
}
