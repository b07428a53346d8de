//! HTTP as this buildpack needs it: kept-alive connections, patient retries, and bodies that go
//! on where they were cut off.

mod body;
mod client;
mod gate;
mod server;

pub use body::Body;
pub use client::{Ask, Credentials, Http, HttpError, Patience, Reply};
pub use gate::Size;
pub use server::{is_same_server, leads_to_link_local, without_credentials};
