//! The words that this program is started with.

use core::ffi::CStr;

/// The position of each word; 0 is the program's own name.
#[derive(Debug)]
pub struct Words;

impl Words {
    /// The number of the file descriptor that takes the [`Report`](crate::Report).
    pub const PIPE: usize = 1;
    /// The number of the file descriptor that becomes the app's standard error; `PRoot`'s is its log.
    pub const ERRORS: usize = 2;
    /// The app's place among the processes: [`OWN_GROUP`], [`FOREGROUND`], both or neither.
    pub const PLACE: usize = 3;
    /// A path that exists if the closure is visible.
    pub const ROOT: usize = 4;
    /// The names of the variables that the app must not get, with commas between.
    pub const VARIABLES: usize = 5;
    /// The app's program, followed by its arguments. Without it, nothing is executed.
    pub const COMMAND: usize = 6;
}

/// The app gets a process group of its own.
pub const OWN_GROUP: u8 = b'g';

/// That group gets the terminal.
pub const FOREGROUND: u8 = b'f';

/// A number in decimal digits.
pub(crate) fn number(word: &CStr) -> Option<i32> {
    word.to_bytes().iter().try_fold(0_i32, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Whether a word has this character.
pub(crate) fn has(word: &CStr, character: u8) -> bool {
    let mut bytes = word.to_bytes().iter();
    bytes.any(|byte| *byte == character)
}

/// The name in `NAME=VALUE`.
pub(crate) fn variable_name(variable: &[u8]) -> &[u8] {
    variable
        .split(|byte| *byte == b'=')
        .next()
        .unwrap_or_default()
}

/// Whether a name is one of those with commas between.
pub(crate) fn is_listed(name: &[u8], names: &[u8]) -> bool {
    names
        .split(|byte| *byte == b',')
        .any(|listed| is_same(listed, name))
}

/// Byte by byte: the library's own comparison of slices is C's.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| *one == *other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_nothing_else() {
        assert_eq!(number(c"12"), Some(12));
        assert_eq!(number(c"-1"), None);
        assert_eq!(number(c"3x"), None);
        assert_eq!(number(c"99999999999"), None);
    }

    #[test]
    fn variables_are_found_by_their_whole_name() {
        let listed = |variable: &[u8]| is_listed(variable_name(variable), b"PWD,PROOT_TMP_DIR");
        assert!(listed(b"PWD=/tmp") && listed(b"PROOT_TMP_DIR=a=b"));
        assert!(!listed(b"OLDPWD=/tmp") && !listed(b"PW=") && !listed(b"PROOT_TMP_DIRECTORY=/"));
    }
}
