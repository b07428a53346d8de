//! Narinfos: one is believed only as its key has signed it, and what is kept of it can be read back.

use binary_cache::{CacheId, CacheUrl, PathInfo, Trust, TrustSettings, kept, narinfo};
use nix_derivation::{CAHash, StoreDir, StorePath};
use nix_narinfo::NarInfo;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The key that has signed the seeds.
const KEY: &str = include_str!("../seeds/narinfo.key");

/// Narinfos that the key has signed.
const SIGNED: [&[u8]; 3] = [
    include_bytes!("../seeds/narinfo/app"),
    include_bytes!("../seeds/narinfo/library"),
    include_bytes!("../seeds/narinfo/without-references"),
];

struct Given {
    cache: CacheUrl,
    trust: TrustSettings,
    /// What the key has signed: nothing else may be believed.
    fingerprints: BTreeSet<String>,
}

static GIVEN: LazyLock<Given> = LazyLock::new(|| {
    let key = KEY.trim().parse().expect("it is a public key");
    let given = Given {
        cache: "https://cache.example.org/nix"
            .parse()
            .expect("it is a URL"),
        trust: TrustSettings {
            keys: vec![key],
            required: true,
        },
        fingerprints: SIGNED
            .into_iter()
            .map(|text| parse(text).expect("it is a narinfo"))
            .map(|narinfo| narinfo.fingerprint(&StoreDir::default()))
            .collect(),
    };
    for text in SIGNED {
        let narinfo = parse(text).expect("it is a narinfo");
        assert_eq!(given.trust.check(&narinfo, &given.cache), Ok(Trust::Signed));
    }
    given
});

fn parse(text: &[u8]) -> Option<NarInfo> {
    narinfo::parse(text).ok()
}

pub fn run(data: &[u8]) {
    let Some(narinfo) = parse(data) else {
        return;
    };
    let given = &*GIVEN;
    let trust = given.trust.check(&narinfo, &given.cache);
    if trust == Ok(Trust::Signed) {
        let fingerprint = narinfo.fingerprint(&StoreDir::default());
        assert!(given.fingerprints.contains(&fingerprint), "{fingerprint}");
    }
    assert_ne!(trust, Ok(Trust::Unsigned));
    assert_ne!(trust, Ok(Trust::TrustedCache));
    if trust == Ok(Trust::ContentAddressed) {
        let info = PathInfo::new(&narinfo, CacheId(0), Trust::ContentAddressed);
        let of_nar = CAHash::Nar(narinfo.nar_hash().clone());
        assert!(info.content.is_some() || narinfo.content_address() == Some(&of_nar));
    }

    let path: &StorePath = narinfo.store_path();
    let mut info = PathInfo::new(&narinfo, CacheId(0), Trust::Signed);
    info.source = None;
    info.references.retain(|reference| reference == path);
    let line = kept::to_line(path, &info);
    assert!(!line.contains('\n'));
    let read = kept::read_lines([line.as_str()]);
    assert_eq!(read.get(path), Some(&info));
}
