//! The start program in the image, `run_proot.sh`: the crate `nix-hydra-start`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nix_hydra_start::main(std::env::args_os())
}
