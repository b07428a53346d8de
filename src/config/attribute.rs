//! Attributes as Nix writes them: `web`, `packages."hello.x"`, `tool^bin,man`.

use serde::Serialize;
use std::fmt;

/// One attribute of an expression, and which of its outputs to deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attribute {
    /// As it was written.
    pub text: String,
    pub path: Vec<String>,
    /// None where none is named, `["*"]` for all.
    pub outputs: Option<Vec<String>>,
}

/// Why a text is not an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeError {
    /// A quotation mark without the other one.
    OpenQuote,
    /// Nothing between two dots, or before `^`.
    Empty,
    /// It names a flake as well; the attribute in it.
    Flake(String),
}

impl fmt::Display for Attribute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Attribute {
    /// Reads attributes that are separated by white space.
    pub fn read_all(text: &str) -> Result<Vec<Self>, AttributeError> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for character in text.chars() {
            quoted ^= character == '"';
            match words.last_mut() {
                Some(word) if quoted || !character.is_whitespace() => word.push(character),
                _ => words.push(String::new()),
            }
        }
        let words = words.iter().filter(|word| !word.is_empty());
        words.map(|word| Self::read(word)).collect()
    }

    /// Reads one attribute, as `parseAttrPath` and `ExtendedOutputsSpec` of Nix do: within quotation
    /// marks a dot is part of a name, and nothing is escaped.
    pub fn read(text: &str) -> Result<Self, AttributeError> {
        let mut path = vec![String::new()];
        let mut was_quoted = false;
        let mut rest = text.chars();
        let mut outputs = None;
        while let Some(character) = rest.next() {
            match character {
                '.' => {
                    if path.last().is_some_and(String::is_empty) && !was_quoted {
                        return Err(match rest.as_str().strip_prefix('#') {
                            Some(attribute) => AttributeError::Flake(attribute.to_string()),
                            None => AttributeError::Empty,
                        });
                    }
                    path.push(String::new());
                    was_quoted = false;
                }
                '"' => {
                    let (name, after) = rest
                        .as_str()
                        .split_once('"')
                        .ok_or(AttributeError::OpenQuote)?;
                    path.last_mut()
                        .get_or_insert(&mut String::new())
                        .push_str(name);
                    rest = after.chars();
                    was_quoted = true;
                }
                '^' => {
                    outputs = Some(rest.as_str().split(',').map(str::to_string).collect());
                    break;
                }
                '#' => return Err(AttributeError::Flake(rest.as_str().to_string())),
                other => path
                    .last_mut()
                    .get_or_insert(&mut String::new())
                    .push(other),
            }
        }
        let named = |outputs: &Vec<String>| outputs.iter().all(|output| !output.is_empty());
        if (path.last().is_some_and(String::is_empty) && !was_quoted)
            || !outputs.as_ref().is_none_or(named)
        {
            return Err(AttributeError::Empty);
        }
        Ok(Self {
            text: text.to_string(),
            path,
            outputs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_nix_reads_them() {
        for (text, path, outputs) in [
            ("web", &["web"] as &[&str], None),
            ("jobs.web", &["jobs", "web"], None),
            ("\"hello.x\"", &["hello.x"], None),
            ("a.\"b.c\".d", &["a", "b.c", "d"], None),
            ("a.\"\"", &["a", ""], None),
            ("\"with space\"", &["with space"], None),
            ("tool^bin,man", &["tool"], Some(&["bin", "man"] as &[&str])),
            ("tool^*", &["tool"], Some(&["*"])),
        ] {
            let read = Attribute::read(text).unwrap();
            assert_eq!(read.path, path, "{text}");
            let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            assert_eq!(read.outputs, outputs.map(strings), "{text}");
        }
        for (text, error) in [
            ("a..b", AttributeError::Empty),
            ("a.", AttributeError::Empty),
            ("", AttributeError::Empty),
            ("a^", AttributeError::Empty),
            ("\"a", AttributeError::OpenQuote),
            (".#web", AttributeError::Flake("web".into())),
            ("github:acme/app#web", AttributeError::Flake("web".into())),
        ] {
            assert_eq!(Attribute::read(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_quoted_space_does_not_separate_attributes() {
        let texts = |text| {
            let read = Attribute::read_all(text).unwrap();
            read.into_iter().map(|one| one.text).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(" web  \"a b\".c\nworker "),
            ["web", "\"a b\".c", "worker"]
        );
        assert_eq!(texts("  "), [] as [&str; 0]);
    }
}
