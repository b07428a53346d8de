//! Hydra: finding the store paths that it built of a revision of the app.
//!
//! Behaviour and shapes follow the sources of NixOS/hydra: its controllers, and `hydra-api.yaml`.
//!
//! - [`Hydra`] (`client`) is the connection: signing in, redirects, JSON. `api` has the shapes of its
//!   answers, `paths` its paths.
//! - [`Job`] and [`Revision`] (`job`) say what to look for; [`revision`] finds the revision in the
//!   app's `.git`.
//! - [`deploy()`] goes from a [`Target`] to its store paths: `evaluation` finds the evaluation that
//!   has the revision, `build` its build of the job, `wait` polls for either.
//! - [`inputs`] offers a jobset's inputs as entries of `NIX_PATH`.
//! - `error` has what can go wrong on the way.

pub mod api;
mod build;
mod client;
mod deploy;
mod error;
mod evaluation;
pub mod inputs;
mod job;
mod paths;
pub mod revision;
mod wait;

pub use build::build_of;
pub use client::{Hydra, sign_in};
pub use deploy::{Deployed, deploy};
pub use error::{
    DeployError, Failed, Fetched, Finished, HydraError, Newest, NoJob, NotEvaluated, NotFinished,
    Unreached, lacks_credentials,
};
pub use evaluation::{Target, evaluation_at, short};
pub use job::{Job, Revision};
pub use paths::{jobset_path, segment};
pub use wait::{Polling, Say};
