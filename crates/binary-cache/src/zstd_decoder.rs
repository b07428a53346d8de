//! Decoders of zstd whose memory serves one NAR after the other.
//!
//! The window of a new one is memory that the kernel has to find and clear: for the NARs of a closure,
//! most of which are smaller than the window, that took 2 % of the processor time of a download.

use std::io::{self, BufRead, Read};
use std::sync::{Mutex, PoisonError};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer, WriteBuf};
use zstd::stream::zio;

/// How many are kept at most: with the largest windows they take 32 MiB.
const MOST_KEPT: usize = 4;

/// The largest window that is kept, 8 MiB: the largest that zstd makes unless it is told to.
const LARGEST_KEPT_LOG: u32 = 23;

static KEPT: Mutex<Vec<Decoder<'static>>> = Mutex::new(Vec::new());

/// Decodes `bytes`, frame after frame, with no larger window than two to the power of `window_log`.
pub(crate) fn decoder(bytes: impl BufRead + 'static, window_log: u32) -> io::Result<impl Read> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut decoder = kept.map_or_else(Decoder::new, Ok)?;
    decoder.reinit()?;
    decoder.set_parameter(DParameter::WindowLogMax(window_log))?;
    Ok(zio::Reader::new(
        bytes,
        Kept {
            decoder: Some(decoder),
            window_log,
        },
    ))
}

/// A decoder that is kept for another NAR when this is dropped.
struct Kept {
    /// `None` only then.
    decoder: Option<Decoder<'static>>,
    window_log: u32,
}

impl Kept {
    fn decoder(&mut self) -> io::Result<&mut Decoder<'static>> {
        self.decoder.as_mut().ok_or(io::ErrorKind::Other.into())
    }
}

impl Operation for Kept {
    fn run<C: WriteBuf + ?Sized>(
        &mut self,
        input: &mut InBuffer<'_>,
        output: &mut OutBuffer<'_, C>,
    ) -> io::Result<usize> {
        self.decoder()?.run(input, output)
    }

    fn reinit(&mut self) -> io::Result<()> {
        self.decoder()?.reinit()
    }

    fn finish<C: WriteBuf + ?Sized>(
        &mut self,
        output: &mut OutBuffer<'_, C>,
        finished_frame: bool,
    ) -> io::Result<usize> {
        self.decoder()?.finish(output, finished_frame)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.window_log > LARGEST_KEPT_LOG {
            return;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST_KEPT {
            kept.extend(self.decoder.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_decodes_one_file_after_another_and_starts_anew_after_an_error() {
        let content = b"some content ".repeat(10_000);
        let file = zstd::bulk::compress(&content, 3).unwrap();
        let two = [&file[..], &file].concat();
        for _ in 0..3 {
            let mut decoded = Vec::new();
            let mut cut = decoder(io::Cursor::new(file[..file.len() - 5].to_vec()), 20).unwrap();
            assert!(cut.read_to_end(&mut Vec::new()).is_err());
            drop(cut);
            let mut both = decoder(io::Cursor::new(two.clone()), 20).unwrap();
            both.read_to_end(&mut decoded).unwrap();
            assert_eq!(decoded, content.repeat(2));
        }
    }
}
