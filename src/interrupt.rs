//! What a build does where it is told to end: it says so, and leaves no process behind.
//!
//! Its half-written layers are declared nowhere, as with a build that is killed.

use crate::messages;
use bullet_stream::global::{print, set_writer};
use nix_hydra_start::processes::descendants;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

/// How often is looked for processes that are left, and after what time again.
const LOOKS: u32 = 200;
const TICK: Duration = Duration::from_millis(10);

/// Watches for signals that end a build, but for those that whoever started it has it ignore (`nohup`).
pub fn watch() {
    let ignored = ignored();
    let signals = [SIGHUP, SIGINT, SIGTERM];
    let signals = signals
        .into_iter()
        .filter(|signal| ignored >> (signal - 1) & 1 == 0);
    // Where they cannot be watched for, they end the build as any program, without a word.
    if let Ok(mut signals) = Signals::new(signals) {
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                end(signal);
            }
        });
    }
}

/// The signals that are ignored, a bit each: the one of signal 1 is the lowest.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

fn end(signal: i32) -> ! {
    print::error(messages::interrupted(signal).to_string());
    set_writer(Halt);
    // What a process that is killed has started becomes this one's child, and is found again.
    let _ = set_child_subreaper(Some(getpid()));
    for _ in 0..LOOKS {
        let left = descendants();
        if left.is_empty() {
            break;
        }
        for pid in left.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(TICK);
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
    std::process::exit(128 + signal)
}

/// Where the log goes meanwhile: whoever has something to say waits. The steps whose processes are
/// killed would tell of failures that are none, and end the build with another status.
struct Halt;

impl Write for Halt {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        loop {
            thread::park();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
