//! Nix code as its tokens. What stands in a comment or a string is no code.

use rnix::SyntaxKind;

#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub kind: SyntaxKind,
    pub text: &'a str,
    /// Counted from 1.
    pub line: usize,
}

/// The tokens of an expression, without comments and white space.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut line = 1;
    let all = rnix::tokenize(text).map(|(kind, text)| {
        let token = Token { kind, text, line };
        line += text.bytes().filter(|byte| *byte == b'\n').count();
        token
    });
    all.filter(|token| !token.kind.is_trivia()).collect()
}
