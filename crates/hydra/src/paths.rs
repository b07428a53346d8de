//! Paths below a Hydra's URL.

use crate::Job;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The path of a job's jobset.
pub fn jobset_path(job: &Job) -> String {
    format!("jobset/{}/{}", segment(&job.project), segment(&job.jobset))
}

/// `text` as one segment of a URL's path.
pub fn segment(text: &str) -> String {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'+');
    utf8_percent_encode(text, PLAIN).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_segment_of_a_path() {
        assert_eq!(segment("a/b?c d"), "a%2Fb%3Fc%20d");
        assert_eq!(segment("x86_64-linux.my-app"), "x86_64-linux.my-app");
    }
}
