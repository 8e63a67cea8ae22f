//! Host memory taken once, carved, sealed.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pages::HUGE;
use super::{HostSpan, HugePages, Limits, Pages, Pin, Pinning, Pool, Topology};
use crate::base::format::Size;
use crate::base::{Error, Result, Status};
use crate::sys::linux::{self, NodePolicy};

/// What an arena's memory is. A required argument: nobody pins, binds or write-combines by accident.
#[derive(Clone, Debug)]
pub enum MemoryKind {
    /// Anonymous pages of this process, near whoever touches them first.
    Plain,
    /// Pages of one NUMA node, by its index.
    Node(u32),
    /// Pages of all nodes with memory, in turn.
    Interleaved,
    /// Pages that a device keeps in place, from the first [`Arena::touch`] until the arena is dropped.
    Pinned {
        /// The device's way of doing it.
        pin: Arc<dyn Pin>,
        /// Whose pages they are.
        by: Pinning,
        /// The NUMA node to take them from: the device's. None where the machine does not tell.
        node: Option<u32>,
    },
}

impl MemoryKind {
    fn node(&self) -> Option<u32> {
        match self {
            MemoryKind::Node(index) => Some(*index),
            MemoryKind::Pinned { node, .. } => *node,
            MemoryKind::Plain | MemoryKind::Interleaved => None,
        }
    }
}

/// One stretch of host memory, zeroed, page-aligned, taken at once and returned at drop.
#[derive(Debug)]
pub struct Arena {
    whole: HostSpan,
    /// Whole pages, from the same address; empty for an empty arena.
    mapped: HostSpan,
    pages: Pages,
    pin: Option<Arc<dyn Pin>>,
    by: Pinning,
    /// Whether every page has its RAM, and `pin`, if there is one, holds the pages.
    touched: Mutex<bool>,
}

impl Arena {
    /// Takes `bytes` bytes, exactly: explicit huge pages where enough are set aside, else transparent ones, else
    /// small ones. Pages get RAM when they are first touched, best by [`Arena::touch`]: whoever plans the
    /// memory asks [`Limits`] before, because the kernel answers a touch too many by killing.
    ///
    /// Errors: the kernel refuses, a node has not so much, or not so much may be locked for a pin that counts
    /// (`OutOfHostMemory`, with need and have); the node does not exist or has no memory (`InvalidArgument`);
    /// binding is forbidden (`Unsupported`).
    pub fn take(bytes: usize, kind: MemoryKind) -> Result<Arena> {
        Arena::take_under(Path::new("/"), bytes, kind, None)
    }

    /// As [`Arena::take`], of the wanted pages alone where some are named, and with the limits of the machine
    /// whose `proc` and `sys` are found under `root`.
    ///
    /// Errors: as [`Arena::take`]; not enough huge pages are set aside (`OutOfHostMemory`); the wanted pages
    /// cannot be had (`Unsupported`).
    pub fn take_under(root: &Path, bytes: usize, kind: MemoryKind, wanted: Option<Pages>) -> Result<Arena> {
        let nodes = nodes_of(&Topology::read_under(root), bytes, &kind)?;
        let (pin, by) = match &kind {
            MemoryKind::Pinned { pin, by, .. } => (Some(pin.clone()), *by),
            _ => (None, Pinning::Registered),
        };
        if pin.as_ref().is_some_and(|pin| pin.counts_as_locked()) {
            Limits::read_under(root, None).admit_locked("a pinned arena", bytes)?;
        }
        let offered = HugePages::read_under(root);
        if let Some(wanted) = wanted {
            offered.admit(bytes, wanted)?;
        }
        if bytes == 0 {
            // SAFETY: no byte is ever read or written through a span of length 0.
            let whole = unsafe { HostSpan::new(NonNull::dangling(), 0) };
            return Ok(Arena {
                whole,
                mapped: whole,
                pages: Pages::Small,
                pin: None,
                by,
                touched: false.into(),
            });
        }
        if let (Pinning::Allocated, Some(pin)) = (by, &pin) {
            let nodes = nodes.as_ref().map_or(&[][..], |(_, nodes, _)| nodes);
            let whole = linux::preferring(nodes, || pin.allocate(bytes))?;
            let (pin, touched) = (Some(pin.clone()), true.into());
            let mut arena = Arena { whole, mapped: whole, pages: Pages::Small, pin, by, touched };
            arena.bytes_mut().fill(0);
            return Ok(arena);
        }
        let bound = nodes.is_some();
        if bound && wanted == Some(Pages::Explicit) {
            return Err(Error::new(
                Status::Unsupported,
                "huge pages that are set aside are not counted by node: ask for plain memory, or other pages",
            ));
        }
        let (base, mapped_bytes, pages) = map(bytes, bound, wanted, offered).map_err(|error| {
            Error::new(
                Status::OutOfHostMemory,
                format!(
                    "an arena of {} was refused by the system ({error}); {}",
                    Size(bytes),
                    Limits::read(None)
                ),
            )
        })?;
        // SAFETY: a fresh mapping of that many zeroed bytes, unmapped only when the arena is dropped.
        let mapped = unsafe { HostSpan::new(base, mapped_bytes) };
        let arena = Arena { whole: mapped.subspan(0, bytes), mapped, pages, pin, by, touched: false.into() };
        if let Some((policy, nodes, only)) = nodes
            && let Err(error) = linux::set_nodes(base, mapped_bytes, policy, &nodes)
            && !only
        {
            return Err(Error::new(
                Status::Unsupported,
                format!("{} cannot be bound to the memory of nodes {nodes:?}: {error}", Size(bytes)),
            ));
        }
        Ok(arena)
    }

    /// All of it. Its memory is gone when the arena is dropped.
    pub fn whole(&self) -> HostSpan {
        self.whole
    }

    /// All of it, where nobody else uses any of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the arena is borrowed alone, so the memory stays and the arena does not touch it; whoever uses a span of it
        // meanwhile breaks the law of spans.
        unsafe { self.whole.slice_mut() }
    }

    /// What its pages are; of an allocator's, as little as nothing is known, they are called small.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Gives every page its RAM, by the pool's threads, so that nobody pays for it later, and pins a pinned
    /// arena. What stands in the memory stays.
    ///
    /// Touches the memory from its beginning and checks before every 256 MiB that the machine has as much left, because the
    /// kernel kills a process that touches more. Waits up to ten seconds for the memory of a virtual machine to grow.
    ///
    /// Errors: no memory is left (`OutOfHostMemory`, with the bytes touched so far); those of [`Pin::pin`].
    pub fn touch(&self, pool: &Pool) -> Result<()> {
        let bytes = self.whole.bytes();
        let mut touched = self.touched.lock();
        if *touched || self.pages == Pages::Explicit || self.by == Pinning::Allocated {
            // Huge pages that were set aside, and an allocator's memory, have their RAM already.
            self.touch_part(0..bytes, pool);
        } else {
            ramp(bytes, PATIENCE, || Limits::read(None), |part| self.touch_part(part, pool))?;
        }
        if let Some(pin) = self.pin.as_ref().filter(|_| !*touched) {
            // SAFETY: the arena's own pages, which have their RAM and stay mapped until they are unpinned at its end.
            unsafe { pin.pin(self.mapped)? };
        }
        *touched = true;
        Ok(())
    }

    fn touch_part(&self, part: Range<usize>, pool: &Pool) {
        let page = linux::page_bytes();
        pool.run(part.len().div_ceil(HUGE), &|_, tile| {
            let start = part.start + tile * HUGE;
            for offset in (start..part.end.min(start + HUGE)).step_by(page) {
                // SAFETY: inside the arena, alive and aligned as every byte is; others may look at it meanwhile
                // only as the law of spans lets them, beside which zero for zero is no change.
                let first = unsafe { AtomicU8::from_ptr(self.whole.address().add(offset)) };
                // A write to the kernel, which maps a page of its own for it, whatever the byte is.
                let _ = first.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        });
    }

    /// The NUMA node that byte `offset` lies on, by the kernel's word. The byte has been touched.
    ///
    /// Errors: the system does not tell (`Unsupported`).
    pub fn node_at(&self, offset: usize) -> Result<u32> {
        let address = NonNull::new(self.whole.subspan(offset, 1).address()).expect("an arena has an address");
        linux::node_of(address).map_err(|error| {
            Error::new(Status::Unsupported, format!("the system does not say where memory lies: {error}"))
        })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(pin) = self.pin.as_ref().filter(|_| *self.touched.lock()) {
            match self.by {
                // SAFETY: `touch` pinned these pages; spans are not used after the arena, so nothing copies.
                Pinning::Registered => unsafe { pin.unpin(self.mapped) },
                // SAFETY: what `take` was given, whole; no span of it is used after the arena.
                Pinning::Allocated => return unsafe { pin.free(self.mapped) },
            }
        }
        if let Some(base) = NonNull::new(self.mapped.address()).filter(|_| self.mapped.bytes() > 0) {
            // SAFETY: the pages that `take` mapped, all of them, by the law of spans unused from now on.
            unsafe { linux::unmap(base, self.mapped.bytes()) }
        }
    }
}

/// Bytes touched between two checks of what the machine has left; whole huge pages.
const RAMP: usize = 128 * HUGE;
/// The longest wait for memory to grow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls `touch` for one part of `bytes` bytes after the other, each once the machine has as much left.
///
/// Errors: it does not have it within `patience` (`OutOfHostMemory`).
fn ramp(
    bytes: usize,
    patience: Duration,
    left: impl Fn() -> Limits,
    mut touch: impl FnMut(Range<usize>),
) -> Result<()> {
    for start in (0..bytes).step_by(RAMP) {
        let part = start..bytes.min(start + RAMP);
        let asked = Instant::now();
        loop {
            let limits = left();
            if part.len() <= limits.reported_bytes {
                break;
            }
            if asked.elapsed() >= patience {
                return Err(Error::new(
                    Status::OutOfHostMemory,
                    format!(
                        "touched {} of {} of host memory, then too little was left for {} s: {limits}; another process \
                         took it, or the machine has less than --host-mem says",
                        Size(start),
                        Size(bytes),
                        patience.as_secs()
                    ),
                ));
            }
            thread::sleep(Duration::from_millis(20));
        }
        touch(part);
    }
    Ok(())
}

/// Policy and nodes of a kind, and whether they are all that the machine has, so that not being allowed to bind
/// changes nothing.
fn nodes_of(
    topology: &Topology,
    bytes: usize,
    kind: &MemoryKind,
) -> Result<Option<(NodePolicy, Vec<u32>, bool)>> {
    let with_memory = topology.with_memory();
    let Some(index) = kind.node() else {
        let only = with_memory.len() == 1;
        let spread = matches!(kind, MemoryKind::Interleaved);
        return Ok(spread.then_some((NodePolicy::Interleave, with_memory, only)));
    };
    let Some(node) = topology.node(index).filter(|node| node.memory_bytes > 0) else {
        return Err(Error::argument(format!(
            "there is no memory on node {index}; this process may use that of nodes {with_memory:?}"
        )));
    };
    if bytes > node.available_bytes {
        return Err(Error::new(
            Status::OutOfHostMemory,
            format!(
                "{} of host memory are needed on node {index}, {} are free there",
                Size(bytes),
                Size(node.available_bytes)
            ),
        ));
    }
    Ok(Some((NodePolicy::Bind, vec![index], with_memory == [index])))
}

/// Maps memory for an arena: address, bytes in whole pages, and what they are.
fn map(
    bytes: usize,
    bound: bool,
    wanted: Option<Pages>,
    offered: HugePages,
) -> io::Result<(NonNull<u8>, usize, Pages)> {
    let small = bytes.next_multiple_of(linux::page_bytes());
    let huge = bytes.next_multiple_of(HUGE);
    if wanted == Some(Pages::Explicit) {
        return Ok((linux::map_explicit_huge(huge)?, huge, Pages::Explicit));
    }
    if wanted == Some(Pages::Small) {
        let base = linux::map_anonymous(small)?;
        // A kernel without huge pages knows no such advice, and has no need of it.
        let _ = linux::advise_small(base, small);
        return Ok((base, small, Pages::Small));
    }
    if bytes < HUGE {
        return Ok((linux::map_anonymous(small)?, small, Pages::Small));
    }
    // The pool of explicit pages is not counted by node: bound memory could be missing at the first touch.
    if !bound
        && wanted.is_none()
        && huge / HUGE <= offered.explicit_free
        && let Ok(base) = linux::map_explicit_huge(huge)
    {
        return Ok((base, huge, Pages::Explicit));
    }
    if !offered.transparent {
        return Ok((linux::map_anonymous(small)?, small, Pages::Small));
    }
    // A huge page needs an address that is a multiple of its size: one page too many is mapped, and what is
    // before and after is given back.
    let raw = linux::map_anonymous(small + HUGE)?;
    let before = raw.as_ptr().align_offset(HUGE);
    // SAFETY: `before` is less than HUGE, so the sum is inside the mapping.
    let base = unsafe { raw.add(before) };
    if before > 0 {
        // SAFETY: the first pages of the new mapping, which nobody knows yet.
        unsafe { linux::unmap(raw, before) };
    }
    if before < HUGE {
        // SAFETY: the last HUGE − before bytes of the new mapping, which begin after `small` bytes of arena.
        unsafe { linux::unmap(base.add(small), HUGE - before) };
    }
    let pages = if linux::advise_huge(base, small).is_ok() { Pages::Transparent } else { Pages::Small };
    Ok((base, small, pages))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;

    /// Simulates touching memory on a machine where `available(touched)` is MemAvailable.
    fn touched(bytes: usize, available: impl Fn(usize) -> usize) -> (Result<()>, usize) {
        let root = tempfile::tempdir().unwrap();
        let meminfo = root.path().join("proc/meminfo");
        fs::create_dir(meminfo.parent().unwrap()).unwrap();
        let reached = Cell::new(0);
        let left = || {
            fs::write(&meminfo, format!("MemAvailable: {} kB\n", available(reached.get()) / 1024)).unwrap();
            Limits::read_under(root.path(), None)
        };
        let result = ramp(bytes, Duration::ZERO, left, |part| {
            assert_eq!(part.start, reached.replace(part.end), "parts follow one another");
        });
        (result, reached.get())
    }

    #[test]
    fn memory_is_touched_as_far_as_it_goes() {
        const GIB: usize = 1 << 30;
        // A machine of 4 GiB, and one that always has 300 MiB left, because it grows.
        assert_eq!(touched(3 * GIB + 5, |reached| 4 * GIB - reached), (Ok(()), 3 * GIB + 5));
        assert_eq!(touched(9 * GIB, |_| 300 << 20), (Ok(()), 9 * GIB));
        assert_eq!(touched(0, |_| 0), (Ok(()), 0));
        let (result, reached) = touched(8 * GIB, |reached| 4 * GIB - reached);
        let error = result.unwrap_err();
        assert_eq!((error.status(), reached), (Status::OutOfHostMemory, 4 * GIB));
        for word in ["4.0 GiB of 8.0 GiB", "0 B may be taken (available RAM)"] {
            assert!(error.message().contains(word), "no {word} in: {error}");
        }
    }
}
