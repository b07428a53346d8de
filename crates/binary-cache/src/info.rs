//! The `nix-cache-info` file: which store a binary cache serves, and how early to ask it.

/// What a `nix-cache-info` says. Format: Nix's `binary-cache-store.cc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheInfo {
    pub store_dir: String,
    /// Lower is asked first.
    pub priority: u32,
}

impl Default for CacheInfo {
    fn default() -> Self {
        Self {
            store_dir: "/nix/store".to_string(),
            priority: 50,
        }
    }
}

impl CacheInfo {
    /// Reads `Key: value` lines; unknown keys, and lines that have no colon, are passed over.
    pub fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for line in text.lines() {
            match line.split_once(':').map(|(key, value)| (key, value.trim())) {
                Some(("StoreDir", value)) => info.store_dir = value.to_string(),
                Some(("Priority", value)) => {
                    info.priority = value.parse().unwrap_or(info.priority);
                }
                _ => {}
            }
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_read_and_everything_else_is_passed_over() {
        let info = CacheInfo::parse(
            "StoreDir: /nix/store\r\nWantMassQuery: 1\nno colon here\nPriority: 30\nFuture: x",
        );
        assert_eq!(info.store_dir, "/nix/store");
        assert_eq!(info.priority, 30);
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(CacheInfo::parse(""), CacheInfo::default());
    }
}
