//! Compressed files that are small, and want more memory than anyone should give.

/// Changes an xz file so that it wants a dictionary of 1.5 GiB, all else as it was.
///
/// # Panics
/// Where `xz` is no xz file.
#[allow(
    clippy::expect_used,
    reason = "only tests use it, with what they have packed"
)]
pub fn xz_with_a_large_dictionary(mut xz: Vec<u8>) -> Vec<u8> {
    // The block's header follows the stream's 12 bytes: its length in words of four bytes less one,
    // flags, sizes where these say so, and the one filter: its number, the length of its properties, and
    // the dictionary's size. It ends with a checksum.
    let sum = 12 + 4 * usize::from(xz[12]);
    let filter = xz[14..sum].windows(2).position(|pair| pair == [0x21, 1]);
    xz[14 + filter.expect("the filter LZMA2") + 2] = 37;
    let new = crc32(&xz[12..sum]).to_le_bytes();
    xz[sum..sum + 4].copy_from_slice(&new);
    xz
}

/// A zstd frame of one block (RFC 8878, 3.1.1) that wants a window of 2 to the power of `log` bytes.
///
/// # Panics
/// Where `content` is longer than a block can be.
pub fn zstd_with_window(log: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 1 << 17, "a block");
    let mut frame = b"\x28\xb5\x2f\xfd\0".to_vec();
    frame.push((log - 10) << 3);
    // The last block, as it is.
    frame.extend(&(content.len() << 3 | 1).to_le_bytes()[..3]);
    frame.extend(content);
    frame
}

fn crc32(bytes: &[u8]) -> u32 {
    let sum = bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
        })
    });
    !sum
}
