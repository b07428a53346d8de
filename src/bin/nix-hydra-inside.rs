//! The first process in PRoot: the crate `nix-hydra-inside`.
//!
//! It has no C library, so this is where the kernel starts it: see `build.rs`.
#![no_main]
#![no_builtins]
// Where panics unwind, as in builds for tests, only the standard library can have them do so.
#![cfg_attr(panic = "abort", no_std)]
#![allow(unsafe_code, reason = "the kernel starts this program, no C library")]

use core::arch::naked_asm;

/// Hands the stack on as it was found.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn nix_hydra_inside_start() -> ! {
    naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {main}",
        "ud2",
        main = sym nix_hydra_inside::main,
    )
}

/// Hands the stack on as it was found.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn nix_hydra_inside_start() -> ! {
    naked_asm!(
        "mov x29, xzr",
        "mov x30, xzr",
        "mov x0, sp",
        "b {main}",
        main = sym nix_hydra_inside::main,
    )
}

/// Called by the C library's startup code, which some targets link in despite the options.
#[unsafe(no_mangle)]
pub extern "C" fn main() {}

/// Nothing here panics, but a program without std must have a handler.
#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
