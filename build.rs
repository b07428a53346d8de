//! Links `nix-hydra-inside` without the C library's start, which it has no use for.

fn main() {
    println!("cargo::rustc-link-arg-bin=nix-hydra-inside=-nostartfiles");
    println!("cargo::rerun-if-changed=build.rs");
}
