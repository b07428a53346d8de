//! PRoot under load, and the system calls that it does not translate.

use crate::launch::{DOCKER, image, launch, run, static_image};
use platform::sandbox::Output;

/// Ten processes look up a path in a loop. Meanwhile the first process starts programs for three
/// seconds, and prints how many.
fn storm(app: &str) -> String {
    format!(
        "for i in 0 1 2 3 4 5 6 7 8 9; do (while [ -e {app} ]; do :; done) & done; \
         rounds=0; SECONDS=0; \
         while [ $SECONDS -lt 3 ]; do {app} version >/dev/null && rounds=$((rounds + 1)); done; \
         kill $(jobs -p); echo $rounds"
    )
}

fn rounds(output: &Output) -> u32 {
    let said = output.stdout.trim();
    said.parse()
        .unwrap_or_else(|_| panic!("{said}: {}", output.stderr))
}

#[test]
fn processes_that_look_up_paths_do_not_starve_the_first_process() {
    let Some(image) = static_image() else { return };
    let app = &image.0.fixtures.apps["static"].store_path;
    let script = storm(&format!("{app}/bin/myapp"));
    let bare = "exec /layers/nix_hydra/proot/libexec/proot -b /layers/nix_hydra/closure:/nix/store \
                bash -c \"$0\"";
    // Each is given the better of two runs: other tests run beside them.
    let best = |words: &[&str]| {
        let run = || {
            let launch = launch(&image, DOCKER, ["sh"]).command(words.iter().copied());
            rounds(&launch.run().unwrap())
        };
        run().max(run())
    };
    let by_itself = best(&["bash", "-c", bare, &script]);
    let ours = best(&["run_proot.sh", "bash", "-c", &script]);
    eprintln!("{ours} rounds, {by_itself} under PRoot by itself");
    assert!(
        ours * 2 >= by_itself,
        "{ours} rounds, {by_itself} by itself"
    );
}

/// Calls that PRoot passes on untranslated, each as it ends; then a program of the image that is executed
/// by its descriptor.
const BLIND_SPOTS: &str = r"
import ctypes, errno, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    print(name, errno.errorcode[ctypes.get_errno()] if result < 0 else 'works')
here, path = ctypes.c_long(-100), sys.executable.encode()
call('openat2', 437, here, path, bytes(24), ctypes.c_long(24))
call('execveat', {'x86_64': 322, 'aarch64': 281}[platform.machine()], here, path, None, None, ctypes.c_long(0x2000))
call('io_uring_setup', 425, ctypes.c_long(1), ctypes.create_string_buffer(120))
call('fchmodat2', 452, here, path, ctypes.c_long(0o755), ctypes.c_long(0))
call('getxattrat', 464, here, path, ctypes.c_long(0), b'user.x', None, ctypes.c_long(0))
sys.stdout.flush()
os.execve(os.open('/bin/echo', os.O_RDONLY), ['echo', 'executed'], os.environ)
";

#[test]
fn calls_that_proot_does_not_translate_are_refused_so_that_programs_use_others() {
    let Some(image) = image("python") else { return };
    // The app is a script that executes Python.
    let python = "exec $(sed -n 's/^exec \\([^ ]*\\).*/\\1/p' $(command -v myapp)) -Ic \"$0\"";
    let output = run(
        &image,
        DOCKER,
        ["run_proot.sh", "bash", "-c", python, BLIND_SPOTS],
    );
    let refused = [
        "openat2",
        "execveat",
        "io_uring_setup",
        "fchmodat2",
        "getxattrat",
    ];
    let refused: String = refused.map(|name| format!("{name} ENOSYS\n")).concat();
    assert_eq!(output.stdout, refused + "executed\n", "{}", output.stderr);
}
