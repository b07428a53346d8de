//! The start program in the image, `run_proot.sh`; what it does is in the crate of that name.

use std::process::ExitCode;

fn main() -> ExitCode {
    nix_hydra_start::main(std::env::args_os())
}
