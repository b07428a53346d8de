//! An HTTP client for binary caches and Hydra: kept-alive connections, patient retries, and bodies
//! that resume after a broken connection.
//!
//! - [`Http`] (`client`) opens URLs for download, follows redirects and retries temporary failures.
//!   `api` is its side for APIs: [`ApiRequest`] and [`ApiResponse`].
//! - [`Endpoint`] is a server's URL with its [`Credentials`].
//! - [`Body`] resumes with a `Range` request; `steady` fails a body that stalls or trickles.
//! - `attempts` decides when a request is repeated, [`Patience`] how long each step may take, and
//!   `gate` how many requests one server gets at once.
//! - `connect` makes connections, `proxy` reads the proxies that the environment names, and
//!   `certificates` the trusted roots.
//! - `s3` reads the errors of buckets, `server` compares servers, and `redact` strips passwords from URLs.

mod api;
mod attempts;
mod body;
mod certificates;
mod client;
mod connect;
mod credentials;
mod endpoint;
mod error;
mod gate;
mod patience;
mod proxy;
mod redact;
mod s3;
mod server;
mod steady;

pub use api::{ApiRequest, ApiResponse};
pub use body::Body;
pub use client::Http;
pub use credentials::Credentials;
pub use endpoint::{Endpoint, EndpointError, sent};
pub use error::HttpError;
pub use gate::Size;
pub use patience::Patience;
pub use redact::{redact_url, without_credentials};
pub use server::{is_same_server, leads_to_link_local};
