//! Reads narinfos as Nix does, within limits.
//!
//! Format: Nix's `nar-info.cc`. Each line is `Name: value`; of a repeated field the last one counts,
//! but `References` and `CA` may not be repeated with other content, and `Sig` is a list. Fields that
//! a deploy does not need are not looked at, so they take no memory.

use nix_derivation::{CAHash, NixHash, StoreDir, StorePath};
use nix_narinfo::{Compression, Field, NarInfo, NixSignature};
use std::collections::BTreeSet;
use std::fmt::Display;

/// The longest URL of a NAR, in bytes: pre-signed ones have some 2,000, and one is kept for each path.
const MAX_URL_SIZE: usize = 4096;

/// The longest value of the other fields that are kept, in bytes.
const MAX_VALUE_SIZE: usize = 512;

/// The longest system that is kept, in bytes; `powerpc64le-linux` has 17.
const MAX_SYSTEM_SIZE: usize = 32;

/// The most signatures. Caches add their own to those of where a path comes from: two or three.
const MAX_SIGNATURES: usize = 32;

/// The field of the system that a path was built for. Hydra writes it; Nix neither writes nor signs it.
pub(crate) const SYSTEM: &str = "System";

/// The values of the fields that matter, as they stand in the text.
#[derive(Default)]
struct Fields<'a> {
    store_path: &'a str,
    url: &'a str,
    compression: &'a str,
    file_size: &'a str,
    nar_hash: &'a str,
    nar_size: &'a str,
    references: &'a str,
    content_address: &'a str,
    system: &'a str,
    deriver: &'a str,
    signatures: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let mut fields = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or("a line has no `:`")?;
            let value = value.trim();
            match name {
                "StorePath" => fields.store_path = limited(name, value, MAX_VALUE_SIZE)?,
                "URL" => fields.url = limited(name, value, MAX_URL_SIZE)?,
                "Compression" => fields.compression = limited(name, value, MAX_VALUE_SIZE)?,
                "FileSize" => fields.file_size = limited(name, value, MAX_VALUE_SIZE)?,
                "NarHash" => fields.nar_hash = limited(name, value, MAX_VALUE_SIZE)?,
                "NarSize" => fields.nar_size = limited(name, value, MAX_VALUE_SIZE)?,
                "References" => once(name, &mut fields.references, value)?,
                "CA" => {
                    let value = limited(name, value, MAX_VALUE_SIZE)?;
                    once(name, &mut fields.content_address, value)?;
                }
                SYSTEM if value.len() <= MAX_SYSTEM_SIZE => fields.system = value,
                "Deriver" => fields.deriver = value,
                "Sig" if fields.signatures.len() == MAX_SIGNATURES => {
                    return Err(format!("it has more than {MAX_SIGNATURES} signatures"));
                }
                "Sig" => fields
                    .signatures
                    .push(limited(name, value, MAX_VALUE_SIZE)?),
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// Parses a narinfo of `/nix/store`. The error says what is wrong with it.
pub fn parse(text: &[u8]) -> Result<NarInfo, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let fields = Fields::read(text)?;
    let store_path = required("StorePath", fields.store_path)?.parse();
    let store_path: StorePath = store_path.map_err(|error| invalid("StorePath", error))?;
    let nar_hash: NixHash = NixHash::parse(required("NarHash", fields.nar_hash)?)
        .map_err(|error| invalid("NarHash", error))?;
    let references: BTreeSet<StorePath> = fields
        .references
        .split_ascii_whitespace()
        .map(|name| StorePath::from_basename(name.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(|error| invalid("References", error))?;
    let content_address = Some(fields.content_address).filter(|address| !address.is_empty());
    let content_address = content_address
        .map(|address| CAHash::parse(address).map_err(|error| invalid("CA", error)))
        .transpose()?;
    let file_size = Some(fields.file_size).filter(|size| !size.is_empty());
    let file_size = file_size.map(|size| number("FileSize", size)).transpose()?;
    // What is no signature signs nothing, whatever else there is.
    let signatures = fields.signatures.iter().filter_map(|signature| {
        let (key_name, encoded) = signature.split_once(':')?;
        Some(NixSignature {
            key_name: key_name.to_string(),
            encoded: encoded.to_string(),
        })
    });
    let system = Some(fields.system).filter(|system| !system.is_empty());
    // Nothing depends on it, and old Nix wrote `unknown-deriver`.
    let deriver = StorePath::from_basename(fields.deriver.as_bytes());
    let deriver = deriver.ok().filter(StorePath::is_derivation);
    let nar_size = number("NarSize", required("NarSize", fields.nar_size)?)?;
    if nar_size == 0 {
        return Err("`NarSize` is zero".to_string());
    }
    NarInfo::builder_in(
        StoreDir::default(),
        store_path,
        required("URL", fields.url)?,
        nar_hash,
        nar_size,
    )
    .compression(Compression::parse(fields.compression))
    .references(references)
    .signatures(signatures)
    .content_address(content_address)
    .file_size(file_size)
    .extensions(system.map(|system| Field {
        name: SYSTEM.to_string(),
        value: system.to_string(),
    }))
    .deriver(deriver)
    .build()
    .map_err(|error| error.to_string())
}

fn required<'a>(name: &str, value: &'a str) -> Result<&'a str, String> {
    if value.is_empty() {
        return Err(format!("`{name}` is missing"));
    }
    Ok(value)
}

fn limited<'a>(name: &str, value: &'a str, limit: usize) -> Result<&'a str, String> {
    if value.len() > limit {
        return Err(format!("`{name}` is longer than {limit} bytes"));
    }
    Ok(value)
}

/// Sets a field that may not have two values.
fn once<'a>(name: &str, field: &mut &'a str, value: &'a str) -> Result<(), String> {
    if !field.is_empty() && *field != value {
        return Err(format!("it has more than one `{name}`"));
    }
    *field = value;
    Ok(())
}

/// A number in decimal digits alone, with no sign.
fn number(name: &str, text: &str) -> Result<u64, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number.ok_or_else(|| format!("`{name}` is not a number"))
}

fn invalid(name: &str, error: impl Display) -> String {
    format!("`{name}` is not valid: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0";
    const HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000";

    fn narinfo(lines: &str) -> Result<NarInfo, String> {
        let text = format!("StorePath: {PATH}\nURL: nar/x\nNarHash: {HASH}\nNarSize: 7\n{lines}");
        parse(text.as_bytes())
    }

    #[test]
    fn fields_that_are_blank_or_repeated_are_read_as_nix_reads_them() {
        let lines = "Compression: \nFileSize: \nReferences: \nCA: \nDeriver: \nSig: \nNarSize: 8\n";
        let info = narinfo(lines).unwrap();
        assert_eq!(info.nar_size(), 8);
        assert_eq!(info.compression().as_str(), "bzip2");
        assert_eq!(info.file_size(), None);
        assert!(info.references().is_empty() && info.signatures().is_empty());
        let reference = "00000000000000000000000000000000-a";
        let one = format!("References: {reference}\n");
        assert_eq!(narinfo(&one).unwrap().references().len(), 1);
        assert_eq!(info.deriver(), None);
        let deriver = narinfo(&format!("Deriver: {reference}.drv\n")).unwrap();
        assert!(deriver.deriver().is_some());
        assert_eq!(
            narinfo("Deriver: unknown-deriver\n").unwrap().deriver(),
            None
        );
        for other in [
            "References: 11111111111111111111111111111111-b\n",
            "References: \n",
        ] {
            assert!(narinfo(&format!("{one}{other}")).is_err());
        }
    }

    #[test]
    fn the_system_is_kept_where_it_may_be_one() {
        let system = |lines: &str| {
            let info = narinfo(lines).unwrap();
            let mut fields = info.extensions().iter();
            fields.next().map(|field| field.value.clone())
        };
        let linux = "aarch64-linux".to_string();
        assert_eq!(system("System: aarch64-linux\n"), Some(linux));
        assert_eq!(system("System: \n"), None);
        assert_eq!(system(&format!("System: {}\n", "x".repeat(100))), None);
    }

    #[test]
    fn a_size_is_digits_alone() {
        for size in ["+7", "-7", "", "7 ", "0x7", "18446744073709551616"] {
            let read = narinfo(&format!("NarSize: {size}\n"));
            assert_eq!(read.is_ok(), size == "7 ", "{size}");
        }
    }

    #[test]
    fn every_field_that_is_kept_has_a_limit() {
        let long = "x".repeat(MAX_URL_SIZE + 1);
        for name in ["URL", "Compression", "CA", "Sig", "StorePath"] {
            assert!(narinfo(&format!("{name}: {long}\n")).is_err(), "{name}");
        }
        assert!(narinfo(&"Sig: a:b\n".repeat(MAX_SIGNATURES + 1)).is_err());
        assert!(narinfo(&format!("{long}: {long}\n")).is_ok());
    }
}
