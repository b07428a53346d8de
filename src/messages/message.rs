//! The type of a message, and two kinds that several steps share.

use crate::log;
use indoc::formatdoc;
use std::io;
use std::path::Path;

/// A message: the failure as its header; the cause and the next step as its body.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub header: String,
    pub body: String,
}

impl Message {
    pub(super) fn new(header: impl Into<String>, body: impl Into<String>) -> Self {
        Self {
            header: log::printable(&header.into()),
            body: log::printable(body.into().trim_end()),
        }
    }

    /// A message as it is written: the header, an empty line, and the body.
    pub(super) fn of(text: &str) -> Self {
        let (header, body) = text.split_once("\n\n").unwrap_or((text, ""));
        Self::new(header, body)
    }

    /// Adds the page of the documentation to read.
    pub(super) fn see(mut self, page: &str) -> Self {
        self.body = format!("{}\n\nSee {page} of the buildpack.", self.body);
        self
    }
}

impl std::fmt::Display for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}\n\n{}", self.header, self.body)
    }
}

pub(super) fn internal(header: &str, body: &str) -> Message {
    Message::new(
        header,
        formatdoc! {"
            {body}

            This is a fault of the buildpack or of the platform that runs it, not of your app.
            Build again; if it comes back, report it with the whole log of the build.
        "},
    )
}

pub(super) fn disk(header: &str, path: &Path, error: &io::Error) -> Message {
    let next = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "The disk is full: give the build more space, or deploy a smaller closure."
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "The user that builds the image must be able to write there."
        }
        _ => "Build again; if it comes back, report it with the whole log of the build.",
    };
    Message::new(
        header,
        format!(
            "{} could not be written: {error}.\n\n{next}",
            path.display()
        ),
    )
}
