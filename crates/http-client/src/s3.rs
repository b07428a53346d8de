//! What an error document of S3 says.
//!
//! Source: "Error responses" of the Amazon S3 API; how versitygw 1.8 answers.

/// S3's word for why it refuses a request; None if the document says that an object is absent, or is none
/// of S3's.
///
/// `AccessDenied` is also the answer for an object that does not exist.
pub(crate) fn refusal(document: &[u8]) -> Option<String> {
    let code = element(error(document)?, "Code")?;
    (!matches!(code, "AccessDenied" | "NoSuchKey")).then(|| code.to_string())
}

/// The region in which a bucket is, where a request was signed for another.
pub(crate) fn region(document: &[u8]) -> Option<String> {
    let error = error(document)?;
    let in_message = || {
        let (_, rest) = error.split_once("is wrong; expecting ")?;
        let rest = ["&#34;", "&quot;", "&#39;", "&apos;", "'", "\""]
            .iter()
            .find_map(|quote| rest.strip_prefix(quote))?;
        let end = rest.find(|letter: char| !is_of_word(letter))?;
        Some(&rest[..end])
    };
    element(error, "Region")
        .or_else(in_message)
        .map(str::to_string)
}

fn error(document: &[u8]) -> Option<&str> {
    let (_, error) = std::str::from_utf8(document).ok()?.split_once("<Error>")?;
    Some(error)
}

/// The text of an element, if it is a word.
fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    ((1..64).contains(&text.len()) && text.chars().all(is_of_word)).then_some(text)
}

fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(code: &str, more: &str) -> String {
        format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code>{more}</Error>")
    }

    #[test]
    fn a_bucket_says_why_it_refuses_a_request() {
        let code = |code: &str| refusal(document(code, "<Message/>").as_bytes());
        assert_eq!(code("ExpiredToken").as_deref(), Some("ExpiredToken"));
        let long = "x".repeat(64);
        for other in ["AccessDenied", "NoSuchKey", "", "a b", "<b>", &long] {
            assert_eq!(code(other), None, "{other}");
        }
        assert_eq!(refusal(b"<Code>x</Code>"), None);
        assert_eq!(refusal(b"\xff"), None);
    }

    #[test]
    fn a_bucket_names_its_region_in_an_element_or_in_its_message() {
        let region = |more: &str| region(document("AuthorizationHeaderMalformed", more).as_bytes());
        for more in [
            "<Region>eu-west-1</Region>",
            "<Message>the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message>",
            "<Message>the region &#34;x&#34; is wrong; expecting &#34;eu-west-1&#34;</Message>",
        ] {
            assert_eq!(region(more).as_deref(), Some("eu-west-1"), "{more}");
        }
        assert_eq!(region("<Message>another</Message>"), None);
    }
}
