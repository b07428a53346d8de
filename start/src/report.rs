//! The pipe through which a child reports to the start program.

pub(crate) use nix_hydra_inside::Report;
use std::io;
use std::os::fd::OwnedFd;

/// Writes a message; so small a one arrives whole.
pub(crate) fn send(report: Report, to: &OwnedFd) {
    // An error means that the reader is gone.
    let _ = rustix::io::write(to, &report.to_bytes());
}

/// The next message. None once all writers are gone.
pub(crate) fn receive(from: &OwnedFd) -> io::Result<Option<Report>> {
    let mut bytes = [0; Report::SIZE];
    let size = rustix::io::retry_on_intr(|| rustix::io::read(from, &mut bytes))?;
    let whole = size == bytes.len();
    Ok(whole.then(|| Report::from_bytes(bytes)).flatten())
}

#[cfg(test)]
mod tests {
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
            send(report, &writer);
            assert_eq!(receive(&reader).unwrap(), Some(report));
        }
        drop(writer);
        assert_eq!(receive(&reader).unwrap(), None);
    }
}
