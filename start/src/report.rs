//! What a child tells the start program through a pipe: messages of two numbers.

use std::io;
use std::os::fd::OwnedFd;

/// A message: which, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// PRoot runs, but the closure is not to be seen in it.
    Hidden,
    /// What was to be tried works.
    Works,
    /// The app runs as this process.
    Started(i32),
    /// The app could not be executed; the error's number.
    NotExecuted(i32),
    /// PRoot could not be executed; the error's number.
    NoPRoot(i32),
    /// A step of making the view failed: the step, and the error's number.
    Refused(u16, u16),
}

const SIZE: usize = 8;

impl Report {
    fn to_bytes(self) -> [u8; SIZE] {
        let (kind, number) = match self {
            Self::Hidden => (0, 0),
            Self::Works => (1, 0),
            Self::Started(pid) => (2, pid),
            Self::NotExecuted(error) => (3, error),
            Self::NoPRoot(error) => (4, error),
            Self::Refused(step, error) => (5, i32::from(step) << 16 | i32::from(error)),
        };
        let mut bytes = [0; SIZE];
        bytes[..4].copy_from_slice(&i32::to_ne_bytes(kind));
        bytes[4..].copy_from_slice(&number.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; SIZE]) -> Option<Self> {
        let [kind, number] = [0, 4].map(|at| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            i32::from_ne_bytes(number)
        });
        let half = |number: i32| u16::try_from(number & 0xffff).unwrap_or_default();
        Some(match kind {
            0 => Self::Hidden,
            1 => Self::Works,
            2 => Self::Started(number),
            3 => Self::NotExecuted(number),
            4 => Self::NoPRoot(number),
            5 => Self::Refused(half(number >> 16), half(number)),
            _ => return None,
        })
    }

    /// Writes it; so small a message arrives whole.
    pub(crate) fn send(self, to: &OwnedFd) {
        // Nobody is left to be told where the reader is gone.
        let _ = rustix::io::write(to, &self.to_bytes());
    }

    /// The next message; none once all writers are gone.
    pub(crate) fn receive(from: &OwnedFd) -> io::Result<Option<Self>> {
        let mut bytes = [0; SIZE];
        let size = rustix::io::retry_on_intr(|| rustix::io::read(from, &mut bytes))?;
        Ok((size == SIZE).then(|| Self::from_bytes(bytes)).flatten())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let reports = [
            Report::Hidden,
            Report::Works,
            Report::Started(4321),
            Report::NotExecuted(2),
            Report::NoPRoot(8),
            Report::Refused(3, 13),
        ];
        for report in reports {
            report.send(&writer);
            assert_eq!(Report::receive(&reader).unwrap(), Some(report));
        }
        drop(writer);
        assert_eq!(Report::receive(&reader).unwrap(), None);
    }
}
