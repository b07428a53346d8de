//! `nix-cache-info`: whatever is in it, the last line of a kind counts and nothing else changes it.

use binary_cache::CacheInfo;

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let info = CacheInfo::parse(&text);
    assert_eq!(info.store_dir, info.store_dir.trim());
    assert!(!info.store_dir.contains('\n'));

    let with_noise = format!("no colon here\n{text}\nFuture: StoreDir: /elsewhere\n");
    assert_eq!(CacheInfo::parse(&with_noise), info);

    let other = CacheInfo {
        store_dir: "/other/store".to_string(),
        priority: 7,
    };
    let with_other = format!("{text}\nStoreDir: /other/store\nPriority: 7\n");
    assert_eq!(CacheInfo::parse(&with_other), other);

    // A priority that is no number leaves the one before it.
    let with_nonsense = format!("{text}\nPriority: high\n");
    assert_eq!(CacheInfo::parse(&with_nonsense), info);
}
