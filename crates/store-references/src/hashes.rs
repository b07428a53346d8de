//! Finds the hash parts of store paths in bytes that stream by.
//!
//! Nix finds a store path's references by its hash part in plain bytes, so whatever Nix found is
//! found here, and what it does not find as well: text in characters of two or four bytes.

/// What begins every reference.
pub const STORE_PREFIX: &[u8] = b"/nix/store/";

/// Characters of a store path's hash part.
pub const HASH_LENGTH: usize = 32;

/// The hash part of a store path.
pub type HashPart = [u8; HASH_LENGTH];

/// Bytes of a hash part in UTF-32.
const WIDEST: usize = 4 * HASH_LENGTH;

/// Bytes at the end of a piece that must be seen again with the next one: more than a reference, or
/// the widest hash part.
pub const OVERLAP: usize = 256;

/// What a run of bytes has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// A reference in full, `/nix/store/` and a known hash part, which begins here.
    Reference(usize, HashPart),
    /// A known hash part with no `/nix/store/` before it.
    Bare(HashPart),
    /// A known hash part in UTF-16 or UTF-32.
    Wide,
    /// `/nix/store/` and a hash part that is not known.
    Foreign(HashPart),
}

/// Looks through `bytes`, of which all from `fresh` on were not seen before, for hash parts that
/// `is_known`, and tells `found` of each.
///
/// What comes before `fresh` must be the end of what was seen before, [`OVERLAP`] bytes of it or all. Of
/// what is there, wide and foreign ones may be told again.
pub fn look(
    bytes: &[u8],
    fresh: usize,
    is_known: impl Fn(&HashPart) -> bool,
    mut found: impl FnMut(Hit),
) {
    let mut digits = Digits::from(fresh.saturating_sub(WIDEST));
    while let Some(candidate) = digits.next(bytes) {
        let start = match candidate {
            Candidate::Run(start) => start,
            Candidate::Wide(zero) => {
                if is_wide(bytes, zero, &is_known) {
                    found(Hit::Wide);
                }
                continue;
            }
        };
        let Some(&hash) = bytes[start..].first_chunk::<HASH_LENGTH>() else {
            continue;
        };
        let is_full = bytes[..start].ends_with(STORE_PREFIX);
        if !is_known(&hash) {
            if is_full {
                found(Hit::Foreign(hash));
            }
            continue;
        }
        digits.skip();
        if start + HASH_LENGTH <= fresh {
            continue;
        }
        found(if is_full {
            Hit::Reference(start - STORE_PREFIX.len(), hash)
        } else {
            Hit::Bare(hash)
        });
    }
}

/// Whether the zero at `zero` is within a hash part in UTF-16 or UTF-32.
fn is_wide(bytes: &[u8], zero: usize, is_known: &impl Fn(&HashPart) -> bool) -> bool {
    [2, 4].into_iter().any(|width| {
        let mut characters = [0; 2 * HASH_LENGTH];
        let count = wide_digits(bytes, zero, width, &mut characters);
        characters[..count]
            .windows(HASH_LENGTH)
            .any(|hash| <&HashPart>::try_from(hash).is_ok_and(is_known))
    })
}

/// Puts the digits around the zero at `zero` into `characters`, if each takes `width` bytes. Returns
/// how many there are: up to a hash part's on either side.
fn wide_digits(
    bytes: &[u8],
    zero: usize,
    width: usize,
    characters: &mut [u8; 2 * HASH_LENGTH],
) -> usize {
    // The zeros before a digit are as good as those after it, so the order of bytes is no matter.
    let is_next = |digit: usize, next: usize| {
        bytes.get(next).copied().is_some_and(is_nix32)
            && bytes[digit + 1..next].iter().all(|&byte| byte == 0)
    };
    let before = (zero.saturating_sub(width - 1)..zero).rfind(|&place| bytes[place] != 0);
    let Some(mut first) =
        before.filter(|&digit| is_nix32(bytes[digit]) && is_next(digit, digit + width))
    else {
        return 0;
    };
    for _ in 1..HASH_LENGTH {
        match first.checked_sub(width) {
            Some(digit) if is_nix32(bytes[digit]) && is_next(digit, first) => first = digit,
            _ => break,
        }
    }
    let mut digit = first;
    let mut count = 0;
    while count < characters.len() {
        characters[count] = bytes[digit];
        count += 1;
        if !is_next(digit, digit + width) {
            break;
        }
        digit += width;
    }
    count
}

/// Goes over bytes for runs of 32 digits of Nix's base 32, and for text in wide characters.
struct Digits {
    /// Where the next run may begin.
    start: usize,
    /// Up to here, from `start` on, all bytes are known to be digits.
    known: usize,
}

/// What [`Digits`] comes by.
enum Candidate {
    /// 32 digits, of which this is the first.
    Run(usize),
    /// A zero in what may be text in UTF-16 or UTF-32.
    Wide(usize),
}

impl Digits {
    fn from(start: usize) -> Self {
        Self {
            start,
            known: start,
        }
    }

    fn next(&mut self, bytes: &[u8]) -> Option<Candidate> {
        loop {
            let end = self.start + HASH_LENGTH;
            let last: &[u8; 8] = bytes.get(self.start..end)?.last_chunk()?;
            // Whatever is no digit rules out all runs that would begin before it, so the last bytes
            // are looked at first; four of them with no branch between, since what a branch would
            // do cannot be foretold. This halves the time of looking.
            let some =
                is_nix32(last[1]) & is_nix32(last[3]) & is_nix32(last[5]) & is_nix32(last[7]);
            if let Some(zero) = wide_zero(*last) {
                self.start = end - 6;
                return Some(Candidate::Wide(end - last.len() + zero));
            }
            if !some {
                self.start = end - 6;
                continue;
            }
            let from = self.known.max(self.start);
            let other = bytes[from..end].iter().rposition(|&byte| !is_nix32(byte));
            self.known = end;
            match other {
                None => {
                    self.start += 1;
                    return Some(Candidate::Run(self.start - 1));
                }
                Some(other) => self.start = from + other + 1,
            }
        }
    }

    /// Goes on after the run that was candidate last.
    fn skip(&mut self) {
        self.start += HASH_LENGTH - 1;
        self.known = self.start;
    }
}

/// One zero near the middle of eight bytes of which every other one is zero, and not all.
fn wide_zero(bytes: [u8; 8]) -> Option<usize> {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let word = u64::from_le_bytes(bytes);
    if (word & EVEN == 0) == (word & !EVEN == 0) {
        return None;
    }
    Some(if word & EVEN == 0 { 4 } else { 3 })
}

/// Whether a byte is a digit of Nix's base 32, which leaves out `e`, `o`, `t` and `u`.
pub fn is_nix32(byte: u8) -> bool {
    NIX32[usize::from(byte)]
}

/// A table, since every byte of a closure is looked at.
const NIX32: [bool; 256] = {
    let mut digits = [false; 256];
    let mut index = 0;
    while index < NIX32_DIGITS.len() {
        digits[NIX32_DIGITS[index] as usize] = true;
        index += 1;
    }
    digits
};

pub const NIX32_DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3";

    fn hits(text: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        look(
            text,
            0,
            |hash| hash == HASH.as_bytes(),
            |hit| hits.push(hit),
        );
        hits
    }

    #[test]
    fn each_form_of_a_store_path_is_told_apart() {
        let hash = *HASH.as_bytes().first_chunk().unwrap();
        let full = format!("see /nix/store/{HASH}-x");
        assert_eq!(hits(full.as_bytes()), [Hit::Reference(4, hash)]);
        let bare = format!("see ../{HASH}-x");
        assert_eq!(hits(bare.as_bytes()), [Hit::Bare(hash)]);
        let other = [b'0'; HASH_LENGTH];
        let foreign = [STORE_PREFIX, &other, b"-x"].concat();
        assert_eq!(hits(&foreign), [Hit::Foreign(other)]);
        let wide: Vec<u8> = full.bytes().flat_map(|byte| [byte, 0]).collect();
        assert_eq!(hits(&wide).first(), Some(&Hit::Wide));
        assert_eq!(hits(b"/nix/store/and nothing behind it"), []);
    }
}
