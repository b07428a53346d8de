//! The doctor's checks, the most important first.

use super::members::{self, Damage};
use super::remains::{self, Seen};
use super::{Check, NAMED, State, full};
use crate::choose::{first_working, try_all};
use crate::closure::{Closure, Index, bytes};
use crate::engine::{Engine, SETTING};
use crate::environment;
use crate::errors::{self, RunError};
use crate::executable::{Kind, Machine, behind};
use crate::image::Found;
use crate::plan::Plan;
use crate::shell;
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use words::{count, first, paths};

/// The directory for temporary files if `TMPDIR` is not set.
const TEMPORARY: &str = "/tmp";

/// The variable that names the file of certificates.
const CERTIFICATES: &str = "SSL_CERT_FILE";

/// With less room than this, programs are soon in trouble.
const LITTLE_ROOM: u64 = 50_000_000;

/// Locales that the C library has by itself.
const OWN_LOCALES: [&str; 4] = ["C", "POSIX", "C.UTF-8", "C.utf8"];

const DAMAGED: &str = "It was changed after the build. Start a new container; if it is the same there, \
    build the image again without what was kept (`pack build --clear-cache`)";

const NO_ENGINE: &str = "Build the image with NIX_ENGINE=relocate: it then needs no engine. Or have \
    whoever runs the container allow ptrace or user namespaces";

/// Everything, with what takes long only if it is to be `thorough`.
pub(super) fn all(found: &Found, thorough: bool) -> Vec<(&'static str, Check)> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let mut checks = vec![("closure", whole(found, found.closure()))];
    if thorough {
        checks.push(("references", references(found)));
    }
    checks.extend([
        ("engine", engine(found)),
        ("programs", programs(found)),
        ("shell", interpreter(found)),
        ("certificates", certificates(found, variable)),
        ("locale", locale(found, variable)),
        ("temporary files", temporary(variable)),
        ("libraries", libraries(found, variable)),
    ]);
    checks
}

/// Whether the closure is all there.
fn whole(found: &Found, closure: Result<Closure, (PathBuf, io::Error)>) -> Check {
    let closure = match closure {
        Ok(closure) => closure,
        Err((file, error)) => {
            let finding = format!("cannot read {}: {error}", file.display());
            return Check::problem(finding, DAMAGED);
        }
    };
    let Damage { missing, changed } = members::damage(found, &closure);
    let all = closure.paths();
    let named = |indices: &[Index]| {
        let paths: Vec<String> = indices.iter().map(|index| full(&all[*index])).collect();
        first(&paths, NAMED)
    };
    let of = format!("of {}", paths(all.len()));
    let are = |count| match count {
        1 => format!("1 {of} is"),
        count => format!("{count} {of} are"),
    };
    for (damaged, how) in [(missing, "not there"), (changed, "not as built")] {
        if !damaged.is_empty() {
            let finding = format!("{} {how}:", are(damaged.len()));
            return Check::problem(finding, DAMAGED).with_details(named(&damaged));
        }
    }
    let whole = if found.image.is_relocated() {
        "all there"
    } else {
        "all there, and of the right size"
    };
    let size = bytes(closure.size());
    Check::ok(format!("{}, {size}: {whole}", paths(all.len())))
}

/// Whether any file of a relocated closure still names a store path.
fn references(found: &Found) -> Check {
    if !found.image.is_relocated() {
        return Check::ok("nothing to look for: the closure is not relocated");
    }
    match found.closure() {
        Ok(closure) => remaining(remains::look_through(found, &closure)),
        // The check before this one says so.
        Err((file, _)) => {
            let finding = format!("cannot be looked for without {}", file.display());
            Check::problem(finding, DAMAGED)
        }
    }
}

/// The same of what was seen.
fn remaining(seen: Seen) -> Check {
    let files = |number| count(number, "file");
    let read = format!("{} read, {}", files(seen.files), bytes(seen.bytes));
    let is_well = seen.remaining.is_empty() && seen.unread.is_empty();
    let remaining = seen.remaining.into_iter();
    let remaining = remaining.map(|(file, form)| format!("{file}: {form}"));
    let vouched = "with store paths that NIX_RELOCATE_IGNORE vouches for";
    let foreign = "with store paths that were never in the image";
    let mut details: Vec<String> = Vec::new();
    for (what, named) in [
        ("still with store paths", remaining.collect()),
        ("not readable", seen.unread),
        (vouched, seen.vouched),
        (foreign, seen.foreign),
    ] {
        if !named.is_empty() {
            details.push(format!("{} {what}:", files(named.len())));
            details.extend(first(&Vec::from_iter(named), NAMED));
        }
    }
    if seen.packed > 0 {
        details.push(format!(
            "{} packed so that only the build looks into them",
            files(seen.packed)
        ));
    }
    let check = if is_well {
        Check::ok(format!("{read}: none is left to rewrite"))
    } else {
        Check::problem(
            format!("{read}: the closure is not as it was relocated"),
            DAMAGED,
        )
    };
    check.with_details(details)
}

/// Whether a command would run, and by which engine.
fn engine(found: &Found) -> Check {
    let plan = Plan::here(&found.image);
    let check = working_engine(found, &plan);
    match &plan.misfit {
        None => check,
        Some(misfit) if plan.strict => {
            let message = RunError::Setting(misfit.clone()).message();
            let (finding, cure) = message.split_once("\n\n").unwrap_or((&message, ""));
            Check::problem(finding, cure)
        }
        Some(_) if check.state == State::Problem => check,
        Some(misfit) => {
            let cure = format!("Unset {SETTING} where the image runs");
            let details = [vec![check.finding], check.details].concat();
            Check::warning(errors::misfit(misfit), cure).with_details(details)
        }
    }
}

/// The same, without a setting that does not apply.
fn working_engine(found: &Found, plan: &Plan) -> Check {
    if found.image.is_relocated() {
        return Check::ok("the closure is relocated, and needs none");
    }
    if found.is_within() {
        return Check::ok(
            "the closure is at /nix/store, by itself or by the engine that started this",
        );
    }
    let tried = try_all(plan.named, found);
    let setting = plan.setting();
    match first_working(&plan.engines, &tried) {
        Some(engine) => Check::ok(format!("{setting}: commands are run by {engine}")),
        None => Check::problem(
            format!("{setting}: no command can be run"),
            match first_working(&Engine::ALL, &tried) {
                Some(other) => format!("Unset it: commands are then run by {other}"),
                None => NO_ENGINE.to_string(),
            },
        ),
    }
    .with_details(errors::tried(&tried))
}

/// The roots' programs.
fn programs(found: &Found) -> Check {
    let mut names = Vec::new();
    let mut broken = Vec::new();
    let mut foreign = Vec::new();
    for root in &found.image.roots {
        let directory = root.join("bin");
        let entries = found.followed(&directory).map(fs::read_dir);
        let mut machines = Vec::new();
        for entry in entries.into_iter().flatten().flatten().flatten() {
            let name = entry.file_name();
            let program = directory.join(&name);
            match found.followed(&program) {
                None => broken.push(program.display().to_string()),
                // Wrapped programs have their originals beside them, hidden.
                Some(_) if name.to_string_lossy().starts_with('.') => {}
                Some(_) => {
                    machines.extend(machine(found, &program));
                    names.push(name.to_string_lossy().into_owned());
                }
            }
        }
        foreign.extend(Machine::own().foreign_among(&machines));
    }
    names.sort();
    names.dedup();
    broken.sort();
    if !broken.is_empty() {
        let finding = match broken.len() {
            1 => "one leads to what is not in the image:".to_string(),
            count => format!("{count} lead to what is not in the image:"),
        };
        return Check::problem(finding, DAMAGED).with_details(first(&broken, NAMED));
    }
    if let Some(machine) = foreign.first() {
        let own = Machine::own();
        return Check::problem(
            format!("they are for {machine}, and this is {own}"),
            format!("Deploy what was built for {own}-linux, or run the image on {machine}"),
        );
    }
    if names.is_empty() {
        return Check::warning(
            "what is deployed has none in its `bin`, so PATH has nothing of it",
            "Deploy the output that has the programs, by NIX_ATTRIBUTES or NIX_STORE_PATH",
        );
    }
    let count = names.len();
    let names = first(&names, NAMED).join(", ").replace(", … ", " ");
    Check::ok(format!("{count}, first on PATH: {names}"))
}

/// The processor that a program is for, where its file tells.
fn machine(found: &Found, program: &Path) -> Option<Machine> {
    let Ok(behind) = behind(program, |path| Ok::<_, Infallible>(found.followed(path)));
    match behind? {
        (_, Kind::Elf(machine)) => Some(machine),
        _ => None,
    }
}

/// The shell for commands that need one.
fn interpreter(found: &Found) -> Check {
    match shell::find(found) {
        Some(shell) => Check::ok(shell.display().to_string()),
        None => Check::warning(
            "neither the run image nor the closure has bash or sh: commands that need one do not run",
            "Use a run image with a shell, or add bash to what is deployed",
        ),
    }
}

/// By which certificates servers are known.
fn certificates(found: &Found, variable: impl Fn(&str) -> Option<OsString>) -> Check {
    let changes = environment::changes(&found.image, &variable, Path::exists);
    let given = variable(CERTIFICATES).or_else(|| {
        let mut own = changes
            .into_iter()
            .filter(|(name, _)| *name == CERTIFICATES);
        own.next()?.1
    });
    let Some(file) = given.map(PathBuf::from) else {
        return Check::warning(
            "there are none: programs cannot tell whom they talk to by HTTPS",
            "Use a run image with ca-certificates, or add cacert to what is deployed",
        );
    };
    if found.followed(&file).is_some_and(|file| may_read(&file)) {
        return Check::ok(file.display().to_string());
    }
    Check::problem(
        format!("{CERTIFICATES} is {}, which cannot be read", file.display()),
        "Name a file that is in the image, or unset it",
    )
}

/// Whether the closure's C library finds the locale of the environment.
fn locale(found: &Found, variable: impl Fn(&str) -> Option<OsString>) -> Check {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let mut set = names
        .into_iter()
        .filter_map(|name| Some((name, variable(name)?)));
    let Some((name, wanted)) = set.next() else {
        return Check::ok("none is asked for");
    };
    let wanted = wanted.to_string_lossy().into_owned();
    if OWN_LOCALES.contains(&wanted.as_str()) {
        return Check::ok(wanted);
    }
    let archive = variable("LOCALE_ARCHIVE").map(PathBuf::from);
    let archive = archive.or_else(|| found.image.locale_archive.clone());
    let archive = archive.filter(|file| found.followed(file).is_some());
    match archive {
        Some(file) => Check::ok(format!("{wanted}, from {}", file.display())),
        None => Check::warning(
            format!("{name} is {wanted}, but the closure has no locales for Nix's C library"),
            "Add glibcLocales to what is deployed, or set LANG=C.UTF-8",
        ),
    }
}

/// Whether there is a place for files that last a while.
fn temporary(variable: impl Fn(&str) -> Option<OsString>) -> Check {
    let directory = variable("TMPDIR").map_or(TEMPORARY.into(), PathBuf::from);
    let shown = directory.display();
    if access(&directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Check::warning(
            format!("{shown} cannot be written"),
            "Mount a directory there, or name another in TMPDIR",
        );
    }
    let Ok(system) = statvfs(&directory) else {
        return Check::ok(shown.to_string());
    };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let finding = format!("{shown}, {} free", bytes(free));
    if free < LITTLE_ROOM {
        let cure = "Remove what is there, or give it more room";
        return Check::warning(finding, cure);
    }
    let no_programs = system.f_flag.contains(StatVfsMountFlags::NOEXEC);
    let details = no_programs.then(|| "no program may be run from it".to_string());
    Check::ok(finding).with_details(details.into_iter().collect())
}

/// Whether libraries of the run image come into the closure's programs.
fn libraries(found: &Found, variable: impl Fn(&str) -> Option<OsString>) -> Check {
    let store = found.image.store();
    let foreign = |name: &str, separators: &[char]| -> Vec<String> {
        let value = variable(name).unwrap_or_default();
        let value = value.to_string_lossy();
        let words = value.split(separators).filter(|word| !word.is_empty());
        words
            .filter(|word| !Path::new(word).starts_with(store))
            .map(str::to_string)
            .collect()
    };
    let preloaded = foreign("LD_PRELOAD", &[':', ' ']);
    if !preloaded.is_empty() {
        return Check::warning(
            format!(
                "LD_PRELOAD has {} loaded into the closure's programs, whose C library is another",
                preloaded.join(" and ")
            ),
            "Unset it, or deploy the library with the app and name that one",
        );
    }
    let left_out = foreign("LD_LIBRARY_PATH", &[':']);
    if left_out.is_empty() {
        return Check::ok("the closure's own alone");
    }
    let left_out = left_out.join(":");
    Check::ok(format!(
        "the closure's own alone: LD_LIBRARY_PATH loses {left_out}"
    ))
}

fn may_read(file: &Path) -> bool {
    file.is_file() && access(file, Access::READ_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::sample;
    use crate::image::Image;
    use std::os::unix::fs::symlink;

    /// An image whose layers are in `layers`.
    fn found(layers: &Path, image: &str) -> Found {
        Found {
            image: Image::parse(image),
            store: layers.join("closure"),
            layer: layers.join("proot"),
        }
    }

    /// A check in words, `layers` by that name.
    fn words(layers: &Path, (name, check): &(&str, Check)) -> String {
        let first = format!("{name} {}: {}", check.state.name(), check.finding);
        let details = check.details.iter().map(|detail| format!("  {detail}"));
        let cure = check.cure.iter().map(|cure| format!("  → {cure}"));
        let lines: Vec<String> = [first].into_iter().chain(details).chain(cure).collect();
        let text = lines.join("\n") + "\n";
        text.replace(&layers.display().to_string(), "/layers")
            .replace(&Machine::own().to_string(), "<own>")
    }

    fn set<const N: usize>(
        variables: [(&'static str, &'static str); N],
    ) -> impl Fn(&str) -> Option<OsString> {
        move |wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        }
    }

    #[test]
    fn each_check_says_what_is_so_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let layers = directory.path();
        let bin = layers.join("closure/a-app/bin");
        fs::create_dir_all(&bin).unwrap();
        let archive = layers.join("closure/c-locales");
        fs::write(&archive, "").unwrap();
        let image = "root /nix/store/a-app\nlocale-archive /nix/store/c-locales\n";
        let found = found(layers, image);
        let without_locales = Found {
            image: Image::parse("root /nix/store/a-app\n"),
            ..found.clone()
        };
        let gone = (
            "/layers/closure/.closure.json".into(),
            io::Error::from_raw_os_error(libc::ENOENT),
        );
        let mut said = vec![
            ("closure", whole(&found, Ok(sample()))),
            ("closure", whole(&found, Err(gone))),
            ("programs", programs(&found)),
        ];
        for name in ["app", ".app-wrapped", "b", "c", "d", "e", "f"] {
            fs::write(bin.join(name), "").unwrap();
        }
        said.push(("programs", programs(&found)));
        symlink("/nix/store/b-gone/bin/gone", bin.join("gone")).unwrap();
        said.push(("programs", programs(&found)));
        fs::remove_file(bin.join("gone")).unwrap();
        fs::copy("/proc/self/exe", bin.join("native")).unwrap();
        let mut other = fs::read("/proc/self/exe").unwrap();
        // `e_machine` of RISC-V.
        other[18..20].copy_from_slice(&[243, 0]);
        fs::write(bin.join("b"), &other).unwrap();
        said.push(("programs", programs(&found)));
        fs::remove_file(bin.join("native")).unwrap();
        said.push(("programs", programs(&found)));
        said.extend(
            [
                certificates(&found, set([("SSL_CERT_FILE", "/nix/store/c-locales")])),
                certificates(&found, set([("SSL_CERT_FILE", "/nowhere")])),
            ]
            .map(|check| ("certificates", check)),
        );
        said.extend(
            [
                locale(&found, set([])),
                locale(&found, set([("LANG", "C.UTF-8")])),
                locale(&found, set([("LANG", "C"), ("LC_ALL", "de_DE.UTF-8")])),
                locale(&without_locales, set([("LANG", "de_DE.UTF-8")])),
            ]
            .map(|check| ("locale", check)),
        );
        said.push(("temporary files", temporary(set([("TMPDIR", "/nowhere")]))));
        said.extend(
            [
                libraries(&found, set([])),
                libraries(
                    &found,
                    set([("LD_LIBRARY_PATH", "/usr/lib:/nix/store/c/lib")]),
                ),
                libraries(
                    &found,
                    set([("LD_PRELOAD", "/usr/lib/a.so /nix/store/c/b.so")]),
                ),
            ]
            .map(|check| ("libraries", check)),
        );
        let said: Vec<String> = said.iter().map(|check| words(layers, check)).collect();
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn there_is_room_for_temporary_files_here() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        let check = temporary(|name| (name == "TMPDIR").then(|| path.clone().into()));
        assert_eq!(check.state, State::Ok, "{check:?}");
        assert!(check.finding.ends_with(" free"), "{check:?}");
    }
}
