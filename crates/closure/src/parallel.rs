//! Work on many things by a few threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Calls `work` with each of `items`, in their order, on at most `threads` threads. Returns the first error,
/// after which no other item is begun.
pub fn each<T: Send, E: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let threads = threads.min(items.len());
    let items = Mutex::new(items.into_iter());
    let failed = Mutex::new(None);
    let next = || lock(&items).next().filter(|_| lock(&failed).is_none());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = next() {
                    if let Err(error) = work(item) {
                        lock(&failed).get_or_insert(error);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    failed
        .unwrap_or_else(PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

/// Locks a mutex, also one whose holder has panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_item_is_worked_on_once() {
        let seen = Mutex::new(Vec::new());
        let done: Result<(), ()> = each((0..100).collect(), 8, |item| {
            lock(&seen).push(item);
            Ok(())
        });
        assert_eq!(done, Ok(()));
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 100);
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), 100);
    }

    #[test]
    fn nothing_is_begun_after_an_error() {
        let seen = Mutex::new(0);
        let failed = each((0..100).collect(), 1, |item| {
            *lock(&seen) += 1;
            if item == 3 { Err(item) } else { Ok(()) }
        });
        assert_eq!(failed, Err(3));
        assert_eq!(*lock(&seen), 4);
    }
}
