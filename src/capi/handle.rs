//! Handles: keys of a table, never dereferenced.
//!
//! C sees a pointer, but its value is a number that is used once. So a handle that is closed, of
//! another kind, of another process, or not a handle at all is not in its table and is refused. A
//! call holds an [`Arc`] of the object: a close during the call frees the object when the call
//! returns.
//!
//! A key, from the highest bit: 16 bits for the [`HandleKind`], 44 bits that count handles, four
//! zeros. It is aligned like a pointer and never an address: on x86-64 the highest byte of an
//! address is 0 or 255, on AArch64, which may ignore that byte, the next one.

use std::hash::{BuildHasher, RandomState};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

use crate::base::{Error, Result};

/// Kinds of objects; the values are the highest 16 bits of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    Trainer = 0x745a,
    Plan = 0x705a,
    Optimizer = 0x6f5a,
    Arena = 0x615a,
}

impl HandleKind {
    const ALL: [HandleKind; 4] =
        [HandleKind::Trainer, HandleKind::Plan, HandleKind::Optimizer, HandleKind::Arena];

    /// The noun in messages, with its article.
    fn noun(self) -> &'static str {
        match self {
            HandleKind::Trainer => "a trainer",
            HandleKind::Plan => "a plan",
            HandleKind::Optimizer => "an optimizer",
            HandleKind::Arena => "an arena",
        }
    }

    fn key(self, number: u64) -> u64 {
        ((self as u64) << KIND_SHIFT) | (number << NUMBER_SHIFT)
    }
}

const KIND_SHIFT: u32 = 48;
const NUMBER_SHIFT: u32 = 4;
/// Numbers are less than this.
const NUMBERS_END: u64 = 1 << (KIND_SHIFT - NUMBER_SHIFT);

/// The numbers of all handles.
struct HandleNumbers {
    first: u64,
    next: AtomicU64,
}

/// Counts from a random number in the lower half, so that handles of another process, or of another
/// copy of the library, are unknown here.
static NUMBERS: LazyLock<HandleNumbers> = LazyLock::new(|| {
    let first = RandomState::new().hash_one(0) % (NUMBERS_END / 2);
    HandleNumbers { first, next: AtomicU64::new(first) }
});

impl HandleNumbers {
    fn draw(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(number < NUMBERS_END, "2^43 handles were opened");
        number
    }

    fn drawn(&self, number: u64) -> bool {
        (self.first..self.next.load(Ordering::Relaxed)).contains(&number)
    }
}

/// An object that C has handles of.
pub trait Object: Send + Sync + Sized + 'static {
    /// The table of all open objects of this type.
    fn table() -> &'static Table<Self>;
}

/// The open objects of one kind.
pub struct Table<T> {
    kind: HandleKind,
    /// By key, ascending.
    open: RwLock<Vec<(u64, Arc<T>)>>,
}

impl<T> Table<T> {
    /// An empty table.
    pub const fn new(kind: HandleKind) -> Self {
        Table { kind, open: RwLock::new(Vec::new()) }
    }

    fn insert(&self, object: T) -> u64 {
        let object = Arc::new(object);
        let mut open = self.open.write();
        let key = self.kind.key(NUMBERS.draw());
        open.push((key, object));
        key
    }

    fn get(&self, key: u64) -> Option<Arc<T>> {
        let open = self.open.read();
        let at = open.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(open[at].1.clone())
    }

    fn remove(&self, key: u64) -> Option<Arc<T>> {
        let mut open = self.open.write();
        let at = open.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(open.remove(at).1)
    }

    /// The error for a key that is not in the table.
    fn refuse(&self, key: u64, what: &str) -> Error {
        if key == 0 {
            return Error::argument(format!("{what} is NULL"));
        }
        let number = (key % (1 << KIND_SHIFT)) >> NUMBER_SHIFT;
        let drawn = |kind: &HandleKind| NUMBERS.drawn(number) && key == kind.key(number);
        let found = match HandleKind::ALL.into_iter().find(drawn) {
            Some(kind) if kind == self.kind => "it was closed".to_owned(),
            Some(kind) => format!("it is {}", kind.noun()),
            None => format!("{key:#x} is not a handle of this process"),
        };
        let (_, noun) = self.kind.noun().split_once(' ').expect("an article and a noun");
        Error::argument(format!("{what} is not an open {noun}: {found}"))
    }
}

/// A handle as C passes it. The pointer is a key.
#[repr(transparent)]
pub struct Handle<T>(*mut T);

impl<T> Handle<T> {
    fn key(&self) -> u64 {
        self.0.addr() as u64
    }

    /// True for NULL.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

impl<T: Object> Handle<T> {
    /// Opens a handle.
    pub fn open(object: T) -> Self {
        Handle(ptr::without_provenance_mut(T::table().insert(object) as usize))
    }

    /// The object. Shared: mutable state is behind a lock.
    pub fn get(&self, what: &str) -> Result<Arc<T>> {
        T::table().get(self.key()).ok_or_else(|| T::table().refuse(self.key(), what))
    }

    /// Closes the handle. The object is dropped here, or when the last call that uses it returns.
    pub fn close(&self, what: &str) -> Result<()> {
        T::table().remove(self.key()).map(drop).ok_or_else(|| T::table().refuse(self.key(), what))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    struct Counter(u64);

    impl Object for Counter {
        fn table() -> &'static Table<Self> {
            static TABLE: Table<Counter> = Table::new(HandleKind::Arena);
            &TABLE
        }
    }

    fn handle(key: u64) -> Handle<Counter> {
        Handle(ptr::without_provenance_mut(key as usize))
    }

    fn refused(key: u64) -> String {
        let message = |outcome: Result<()>| outcome.unwrap_err().message().to_owned();
        let got = message(handle(key).get("arena").map(drop));
        assert_eq!(message(handle(key).close("arena")), got);
        got
    }

    #[test]
    fn a_handle_is_found_until_it_is_closed() {
        let (first, second) = (Handle::open(Counter(1)), Handle::open(Counter(2)));
        assert_eq!((first.get("arena").unwrap().0, second.get("arena").unwrap().0), (1, 2));
        first.close("arena").unwrap();
        assert_eq!(refused(first.key()), "arena is not an open arena: it was closed");
        assert_eq!(second.get("arena").unwrap().0, 2);
        let third = Handle::open(Counter(3));
        assert!(third.key() != first.key() && third.key().is_multiple_of(16));
        second.close("arena").unwrap();
        third.close("arena").unwrap();
    }

    #[test]
    fn whatever_is_not_an_open_handle_is_refused_with_what_is_known_of_it() {
        assert_eq!(refused(0), "arena is NULL");
        let open = Handle::open(Counter(1));
        let number = (open.key() % (1 << KIND_SHIFT)) >> NUMBER_SHIFT;
        assert_eq!(refused(HandleKind::Plan.key(number)), "arena is not an open arena: it is a plan");
        let local = 5;
        let address = (&raw const local).addr() as u64;
        for key in
            [1, 4096, address, open.key() + 1, open.key() + (1 << 40), open.key() ^ (1 << 63), u64::MAX]
        {
            assert_eq!(
                refused(key),
                format!("arena is not an open arena: {key:#x} is not a handle of this process")
            );
        }
        open.close("arena").unwrap();
    }

    #[test]
    fn no_key_is_an_address() {
        for kind in HandleKind::ALL {
            for number in [0, NUMBERS_END - 1] {
                let key = kind.key(number);
                assert!(
                    !matches!(key >> 56, 0 | 0xff) && !matches!((key >> 48) & 0xff, 0 | 0xff),
                    "{key:#x}"
                );
            }
        }
    }

    #[test]
    fn handles_may_be_closed_while_other_threads_use_them() {
        for _ in 0..100 {
            let key = Handle::open(Counter(7)).key();
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| while handle(key).get("arena").is_ok_and(|counter| counter.0 == 7) {});
                }
                handle(key).close("arena").unwrap();
            });
        }
    }

    #[test]
    fn an_object_that_a_call_uses_is_dropped_when_the_call_returns() {
        let open = Handle::open(Counter(4));
        let used = open.get("arena").unwrap();
        open.close("arena").unwrap();
        assert_eq!((used.0, Arc::strong_count(&used)), (4, 1));
    }
}
