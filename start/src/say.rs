//! Messages of the start program, on standard error: standard output is the app's.

use std::io::{self, Write as _};

/// The name by which users know the program that runs commands.
pub(crate) const RUN_PROOT: &str = "run_proot.sh";

/// Printed when PRoot works, but only without the filter that keeps it fast.
pub(crate) const SLOW_PROOT: &str = "this PRoot translates nothing with its seccomp filter, so it ran \
    without: every system call was slower. The PRoot that the buildpack pins has no such fault.";

/// Prints `text` behind the name of the program that the user has started.
pub(crate) fn say(name: &str, text: &str) {
    // A closed standard error leaves nowhere to report to.
    let _ = writeln!(io::stderr(), "{name}: {text}");
}
