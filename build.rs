//! Links `nix-hydra-inside` so that it starts without the C library, which it has no use for.

fn main() {
    for argument in ["-nostartfiles", "-Wl,-e,nix_hydra_inside_start"] {
        println!("cargo::rustc-link-arg-bin=nix-hydra-inside={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
