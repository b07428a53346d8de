//! The help of each command.

pub(crate) const HELP: &str = "\
Looks after a Nix closure in an image.

Usage: nix-hydra run COMMAND [ARGUMENT]...    run a command with the closure at /nix/store
       nix-hydra engines                      say which engines work here
       nix-hydra closure                      say what is in this image, and how large it is
       nix-hydra why PATH                     say why a store path is in this image
       nix-hydra diff BEFORE AFTER            say what changed between two images
       nix-hydra doctor                       say what is wrong with this image, where it runs
       nix-hydra check [DIR]                  say whether a deploy would succeed; not in an image
       run_proot.sh COMMAND [ARGUMENT]...     the same as nix-hydra run

Each takes --help; --version prints the version of the buildpack that made the image. A program that
is deployed is on PATH by its own name, too, as if run_proot.sh were before it.
";

pub(crate) const NO_CHECK: &str = "\
`check` reads an app's source before it is deployed, and is not in images.

It is in the buildpack's release, where this program has the same name.";

pub(crate) const RUN_HELP: &str = "\
Runs a command where the image's Nix closure is at /nix/store, with the bin directories of the
deployed store paths first on PATH. Its exit status, or the signal that ended it, is passed on.

Usage: run_proot.sh COMMAND [ARGUMENT]...
       nix-hydra run COMMAND [ARGUMENT]...
       nix-hydra run --shell TEXT [ARGUMENT]...

  --shell    TEXT is for a shell: the run image's bash or sh, else one of the closure

NIX_ENGINE         direct, namespace or proot: try this engine first; unset, the first that works
NIX_ENGINE_STRICT  true: fail where NIX_ENGINE cannot be followed, instead of a warning
NIX_ENGINE_LOG     1: say on standard error which engine is taken, and why not another
";

pub(crate) const ENGINES_HELP: &str = "\
Says which engines, the ways to make the closure appear at /nix/store, work here, and why the others
do not. The exit status is 0 if a command would run.

Usage: nix-hydra engines
";

pub(crate) const CLOSURE_HELP: &str = "\
Says what is in this image: how large it is, the 20 largest store paths, each with the shortest chain
of references that pulls it in, and what programs rarely need when they run.

Usage: nix-hydra closure [--all | --json | --svg | --html [--since BEFORE]] [FILE]

  --all     every store path, not the largest alone
  --json    all that is known, as JSON: roots, and of each path its size and references
  --svg     a picture: a box for each store path, as large as it is, with its chain under the pointer
  --html    a page with a picture to walk through, a table and a search
  --since   colours what changed since another image
  FILE      another closure than this image's; like BEFORE, the output of `nix-hydra closure --json` or of
            `nix-hydra check --json`
";

pub(crate) const WHY_HELP: &str = "\
Says why a store path is in this image: the shortest chain of references from what is deployed, and
everything that refers to it.

Usage: nix-hydra why PATH

  PATH    a store path, a file in one, a name such as gcc-14.3.0 or a part of it, or the name of a
          file such as libssl.so.3

The exit status is 1 if nothing in the image is called so.
";

pub(crate) const DIFF_HELP: &str = "\
Says what changed between two images: packages that were updated, are new or are gone, with sizes.

Usage: nix-hydra diff BEFORE [AFTER]

  BEFORE, AFTER    a file with the output of `nix-hydra closure --json` or `nix-hydra check --json`;
                   without AFTER, this image
";

pub(crate) const DOCTOR_HELP: &str = "\
Says what is wrong with this image, where it runs: whether all of the closure is there, whether a
command would run and by which engine, and what it would lack: programs, a shell, certificates,
locales, room for temporary files. Then what the kernel and the container allow. Nothing is changed.

Usage: nix-hydra doctor [--thorough] [--json]

  --thorough    also read every file of a relocated closure, and name those that still have store paths
  --json        the same, as JSON

Each line is `ok`, a `warning` (some apps do not work with it) or a `problem`, with what to do. The exit
status is 1 if there is a problem. It sees what its own environment has: `launcher -- nix-hydra doctor`
gives it that of the app.
";
