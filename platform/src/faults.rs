//! What goes wrong with a server's answers, by a plan that follows from a seed: the same seed, path
//! and number of the request give the same fault, in whatever order threads ask.

use crate::server::{Request, Response};
use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many of a hundred requests fail, one of these for each seed: from a bad day to an outage.
const RATES: [u64; 4] = [2, 8, 25, 60];

/// Answers that a server, or a proxy before it, gives instead of its own.
const STATUSES: [u16; 8] = [404, 403, 410, 429, 500, 502, 503, 504];

/// The longest delay, in milliseconds; clients are patient for far longer.
const MAX_DELAY: u64 = 200;

/// The plan of one seed, for the files of one directory.
#[derive(Debug)]
pub struct Faults {
    seed: u64,
    directory: PathBuf,
    /// How often each path was asked for.
    asked: Mutex<HashMap<String, u64>>,
}

impl Faults {
    pub fn new(seed: u64, directory: impl Into<PathBuf>) -> Self {
        Self {
            seed,
            directory: directory.into(),
            asked: Mutex::default(),
        }
    }

    /// The answer to this request, where it is one that fails.
    pub fn answer(&self, request: &Request) -> Option<Response> {
        let count = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let count = asked.entry(request.path.clone()).or_default();
            *count += 1;
            *count
        };
        // Where files of other runs lie must not matter, so only a path's end counts.
        let name = Path::new(&request.path).file_name();
        let mut random = Random(hash(&(self.seed, name, count)));
        let rates = Random(hash(&self.seed)).below(RATES.len() as u64);
        let rate = RATES[usize::try_from(rates).unwrap_or(0)];
        if random.below(100) >= rate {
            return None;
        }
        let body = fs::read(self.directory.join(request.path.trim_start_matches('/')));
        let mut body = body.unwrap_or_default();
        let at = usize::try_from(random.below(body.len() as u64 + 1)).unwrap_or(0);
        let rest = body.len() - at;
        let whole = Response::new(200);
        Some(match random.below(9) {
            0 => {
                let delay = Duration::from_millis(random.below(MAX_DELAY));
                whole.body(body).delay(delay)
            }
            // Cut off, with or without a word, or without even that.
            1 => whole.body(&body[..at]).missing(rest),
            2 => whole.body(&body[..at]).missing(rest).resets(),
            3 => Response::new(200).missing(1).resets(),
            // Cut off by one that believes to have sent it all.
            4 => whole.body(&body[..at]),
            5 => {
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
                whole.body(body)
            }
            6 => whole.body("<html>Please sign in to the hotel's network</html>"),
            _ => {
                let status = random.below(STATUSES.len() as u64);
                let status = STATUSES[usize::try_from(status).unwrap_or(0)];
                let response = Response::new(status).body("<html>sorry</html>");
                match random.below(4) {
                    0 => response.header("Retry-After", "0"),
                    1 => response.header("Retry-After", &u64::MAX.to_string()),
                    _ => response,
                }
            }
        })
    }
}

/// Numbers that follow from a seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(hash(&seed))
    }

    /// The next number below `end`, which must not be 0. Algorithm: splitmix64.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// The same in each run, unlike the standard library's hashes of maps.
fn hash(of: &impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(of)
}
