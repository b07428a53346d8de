//! Messages to the start program through a pipe, of two numbers each.

/// A message: which, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// `PRoot` runs, but the closure is not to be seen in it.
    Hidden,
    /// The engine works; there was no app to run.
    Works,
    /// The app runs as this process.
    Started(i32),
    /// The app could not be executed; the error's number.
    NotExecuted(i32),
    /// `PRoot` could not be executed; the error's number.
    NoPRoot(i32),
    /// A step of making the view failed: the step, and the error's number.
    Refused(u16, u16),
}

impl Report {
    /// The size of a message in bytes; a pipe passes so few on as a whole.
    pub const SIZE: usize = 8;

    /// The message as it is written.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let (kind, number): (u64, i32) = match self {
            Self::Hidden => (0, 0),
            Self::Works => (1, 0),
            Self::Started(pid) => (2, pid),
            Self::NotExecuted(error) => (3, error),
            Self::NoPRoot(error) => (4, error),
            Self::Refused(step, error) => (5, i32::from(step) << 16 | i32::from(error)),
        };
        (kind << 32 | u64::from(number.cast_unsigned())).to_ne_bytes()
    }

    /// The message that was written so.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Option<Self> {
        let message = u64::from_ne_bytes(bytes);
        let number = u32::try_from(message & u64::from(u32::MAX))
            .ok()?
            .cast_signed();
        let half = |number: i32| u16::try_from(number & 0xffff).unwrap_or_default();
        Some(match message >> 32 {
            0 => Self::Hidden,
            1 => Self::Works,
            2 => Self::Started(number),
            3 => Self::NotExecuted(number),
            4 => Self::NoPRoot(number),
            5 => Self::Refused(half(number >> 16), half(number)),
            _ => return None,
        })
    }

    pub(crate) fn send(self, pipe: i32) {
        crate::sys::write(pipe, &self.to_bytes());
    }
}
