//! Arenas: blocks of host memory, each allocated once and divided into spans.

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
use crate::base::{Error, Name, Result, Status};
use crate::sys::linux::{self, NodePolicy};

/// The kind of an arena's memory. A required argument, so that memory is never pinned or bound by
/// accident.
#[derive(Clone, Debug)]
pub enum MemoryKind {
    /// Anonymous pages, on the NUMA node of the thread that first touches them.
    Plain,
    /// Pages of one NUMA node, given by index.
    Node(u32),
    /// Pages interleaved over all NUMA nodes with memory.
    Interleaved,
    /// Pinned pages: from [`Arena::take`] (allocated) or [`Arena::touch`] (registered) until the
    /// arena is dropped.
    Pinned {
        /// The device's implementation.
        pin: Arc<dyn Pin>,
        /// The way in which the pages are allocated and pinned.
        by: Pinning,
        /// The device's NUMA node, to which the pages are bound; `None` if it is unknown.
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

/// A contiguous block of host memory, zeroed and page-aligned, freed on drop.
#[derive(Debug)]
pub struct Arena {
    whole: HostSpan,
    /// The arena rounded up to whole pages; empty for an empty arena.
    mapped: HostSpan,
    pages: Pages,
    pin: Option<Arc<dyn Pin>>,
    by: Pinning,
    /// True if every page is backed by RAM and, for a pinned arena, pinned.
    touched: Mutex<bool>,
}

impl Arena {
    /// Allocates `bytes` bytes: explicit huge pages if enough are reserved, else transparent huge
    /// pages, else small pages. Pages get RAM when they are first touched, usually by
    /// [`Arena::touch`]. Callers check [`Limits`] first, because the kernel kills a process that
    /// touches more memory than there is.
    ///
    /// Errors: the system refuses, a node has too little memory, or `RLIMIT_MEMLOCK` is too low for
    /// a pin that counts against it (`OutOfHostMemory`, with needed and available bytes); the node
    /// does not exist or has no memory (`InvalidArgument`); binding is forbidden (`Unsupported`).
    pub fn take(bytes: usize, kind: MemoryKind) -> Result<Arena> {
        Arena::take_under(Path::new("/"), bytes, kind, None)
    }

    /// Checks that the node and `RLIMIT_MEMLOCK` allow such an arena.
    ///
    /// Errors: as [`Arena::take`].
    pub fn admit(bytes: usize, kind: &MemoryKind) -> Result<()> {
        admit(Path::new("/"), bytes, kind).map(drop)
    }

    /// As [`Arena::take`], with the pages `wanted` only, if given, and the limits of the machine
    /// whose `proc` and `sys` are under `root`.
    ///
    /// Errors: as [`Arena::take`]; too few huge pages are reserved (`OutOfHostMemory`); the wanted
    /// pages are not available (`Unsupported`).
    pub fn take_under(root: &Path, bytes: usize, kind: MemoryKind, wanted: Option<Pages>) -> Result<Arena> {
        let nodes = admit(root, bytes, &kind)?;
        let (pin, by) = match &kind {
            MemoryKind::Pinned { pin, by, .. } => (Some(pin.clone()), *by),
            _ => (None, Pinning::Registered),
        };
        let offered = HugePages::read_under(root);
        if let Some(wanted) = wanted {
            offered.admit(bytes, wanted)?;
        }
        if bytes == 0 {
            // SAFETY: no byte is read or written through a span of length 0.
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
                "explicit huge pages cannot be bound to a node: use plain memory or other pages",
            ));
        }
        let (base, mapped_bytes, pages) = map(bytes, bound, wanted, offered).map_err(|error| {
            Error::new(
                Status::OutOfHostMemory,
                format!("the system refused an arena of {} ({error}); {}", Size(bytes), Limits::read(None)),
            )
        })?;
        // SAFETY: a new mapping of that many zeroed bytes, unmapped only when the arena is dropped.
        let mapped = unsafe { HostSpan::new(base, mapped_bytes) };
        let arena = Arena { whole: mapped.subspan(0, bytes), mapped, pages, pin, by, touched: false.into() };
        if let Some((policy, nodes, only)) = nodes
            && let Err(error) = linux::set_nodes(base, mapped_bytes, policy, &nodes)
            && !only
        {
            return Err(Error::new(
                Status::Unsupported,
                format!("cannot bind an arena of {} to {}: {error}", Size(bytes), named(&nodes)),
            ));
        }
        Ok(arena)
    }

    /// The whole arena. The span is dangling once the arena is dropped.
    pub fn whole(&self) -> HostSpan {
        self.whole
    }

    /// The whole arena as a slice. No span of it is used meanwhile.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the arena is borrowed mutably, so the memory stays and `touch` does not run;
        // using a span of it meanwhile would violate the rules of spans.
        unsafe { self.whole.slice_mut() }
    }

    /// The kind of its pages. Unknown for memory of a device's allocator, which reports `Small`.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Touches every page with the pool's threads, so that no later access pays for page faults,
    /// and pins a pinned arena. Keeps the contents.
    ///
    /// Touches the memory from its start in chunks of 256 MiB. Before each chunk it checks that the
    /// machine has that much left, because the kernel kills a process that touches more, and waits
    /// up to ten seconds for the memory of a virtual machine to grow.
    ///
    /// Errors: no memory is left (`OutOfHostMemory`, with the bytes touched so far); those of
    /// [`Pin::pin`].
    pub fn touch(&self, pool: &Pool) -> Result<()> {
        let bytes = self.whole.bytes();
        let mut touched = self.touched.lock();
        if *touched || self.pages == Pages::Explicit || self.by == Pinning::Allocated {
            // Explicit huge pages and a device allocator's memory are backed by RAM already.
            self.touch_range(0..bytes, pool);
        } else {
            touch_in_chunks(bytes, PATIENCE, || Limits::read(None), |chunk| self.touch_range(chunk, pool))?;
        }
        if let Some(pin) = self.pin.as_ref().filter(|_| !*touched) {
            // SAFETY: the arena's own pages, backed by RAM and mapped until `drop` has unpinned them.
            unsafe { pin.pin(self.mapped)? };
        }
        *touched = true;
        Ok(())
    }

    fn touch_range(&self, range: Range<usize>, pool: &Pool) {
        let page = linux::page_bytes();
        pool.run(range.len().div_ceil(HUGE), &|_, tile| {
            let start = range.start + tile * HUGE;
            for offset in (start..range.end.min(start + HUGE)).step_by(page) {
                // SAFETY: inside the arena, which is alive; a byte is always aligned. Concurrent
                // accesses follow the rules of spans, and this one replaces 0 by 0 at most.
                let first = unsafe { AtomicU8::from_ptr(self.whole.address().add(offset)) };
                // The kernel sees a write and maps a page, whether or not the byte is 0.
                let _ = first.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        });
    }

    /// The NUMA node of byte `offset`, as the kernel reports it. The caller must have touched it.
    ///
    /// Errors: the system does not report it (`Unsupported`).
    pub fn node_at(&self, offset: usize) -> Result<u32> {
        let address = NonNull::new(self.whole.subspan(offset, 1).address()).expect("an arena has an address");
        linux::node_of(address).map_err(|error| {
            Error::new(Status::Unsupported, format!("cannot read the NUMA node of memory: {error}"))
        })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(pin) = self.pin.as_ref().filter(|_| *self.touched.lock()) {
            match self.by {
                // SAFETY: `touch` pinned these pages; spans are not used after the arena, so no
                // copy is in flight.
                Pinning::Registered => unsafe { pin.unpin(self.mapped) },
                // SAFETY: the whole allocation that `take` received; no span of it is used after
                // the arena.
                Pinning::Allocated => return unsafe { pin.free(self.mapped) },
            }
        }
        if let Some(base) = NonNull::new(self.mapped.address()).filter(|_| self.mapped.bytes() > 0) {
            // SAFETY: all the pages that `take` mapped; by the rules of spans they are unused
            // from now on.
            unsafe { linux::unmap(base, self.mapped.bytes()) }
        }
    }
}

/// Bytes touched between two checks of the memory left; a multiple of a huge page.
const TOUCH_CHUNK: usize = 128 * HUGE;
/// The longest wait for memory to grow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls `touch` for successive chunks of `bytes` bytes, each once the machine has that much memory
/// left.
///
/// Errors: the memory is not available within `patience` (`OutOfHostMemory`).
fn touch_in_chunks(
    bytes: usize,
    patience: Duration,
    left: impl Fn() -> Limits,
    mut touch: impl FnMut(Range<usize>),
) -> Result<()> {
    for start in (0..bytes).step_by(TOUCH_CHUNK) {
        let chunk = start..bytes.min(start + TOUCH_CHUNK);
        let since = Instant::now();
        loop {
            let limits = left();
            if chunk.len() <= limits.reported_bytes {
                break;
            }
            if since.elapsed() >= patience {
                return Err(Error::new(
                    Status::OutOfHostMemory,
                    format!(
                        "touched {} of {} of host memory, then too little was left for {} s: {limits}; another process \
                         took it, or the machine has less than {} states",
                        Size(start),
                        Size(bytes),
                        patience.as_secs(),
                        Name::HostMem
                    ),
                ));
            }
            thread::sleep(Duration::from_millis(20));
        }
        touch(chunk);
    }
    Ok(())
}

/// Checks limits on locked memory and the memory of nodes, and returns the nodes as [`nodes_of`]
/// does.
fn admit(root: &Path, bytes: usize, kind: &MemoryKind) -> Result<Option<(NodePolicy, Vec<u32>, bool)>> {
    let nodes = nodes_of(&Topology::read_under(root), bytes, kind)?;
    if let MemoryKind::Pinned { pin, .. } = kind
        && pin.counts_as_locked()
    {
        Limits::read_under(root, None).admit_locked("a pinned arena", bytes)?;
    }
    Ok(nodes)
}

/// The NUMA policy and nodes of a memory kind, and true if they are all nodes of the machine:
/// binding may then fail without consequence.
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
            "there is no memory on node {index}; this process may use that of {}",
            named(&with_memory)
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

/// Maps memory for an arena. Returns the address, the bytes in whole pages, and the kind of pages.
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
        // Fails on a kernel without huge pages, where it is not needed.
        let _ = linux::advise_small(base, small);
        return Ok((base, small, Pages::Small));
    }
    if bytes < HUGE {
        return Ok((linux::map_anonymous(small)?, small, Pages::Small));
    }
    // Explicit pages are not reserved per node: a bound arena could run out of them at the first touch.
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
    // A huge page must be aligned to its size: map one page too many and unmap the rest before and
    // after.
    let raw = linux::map_anonymous(small + HUGE)?;
    let before = raw.as_ptr().align_offset(HUGE);
    // SAFETY: `before` is less than HUGE, so the sum is inside the mapping.
    let base = unsafe { raw.add(before) };
    if before > 0 {
        // SAFETY: the first pages of the new mapping, which is not shared yet.
        unsafe { linux::unmap(raw, before) };
    }
    if before < HUGE {
        // SAFETY: the last HUGE − before bytes of the new mapping, after the `small` bytes of the
        // arena.
        unsafe { linux::unmap(base.add(small), HUGE - before) };
    }
    let pages = if linux::advise_huge(base, small).is_ok() { Pages::Transparent } else { Pages::Small };
    Ok((base, small, pages))
}

/// Nodes in words: `node 0`, `nodes 0, 1`.
fn named(nodes: &[u32]) -> String {
    let numbers: Vec<String> = nodes.iter().map(u32::to_string).collect();
    format!("node{} {}", if nodes.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;

    /// Simulates touching memory on a machine where `available(touched)` is MemAvailable. Returns
    /// the result and the bytes touched.
    fn touched(bytes: usize, available: impl Fn(usize) -> usize) -> (Result<()>, usize) {
        let root = tempfile::tempdir().unwrap();
        let meminfo = root.path().join("proc/meminfo");
        fs::create_dir(meminfo.parent().unwrap()).unwrap();
        let reached = Cell::new(0);
        let left = || {
            fs::write(&meminfo, format!("MemAvailable: {} kB\n", available(reached.get()) / 1024)).unwrap();
            Limits::read_under(root.path(), None)
        };
        let result = touch_in_chunks(bytes, Duration::ZERO, left, |chunk| {
            assert_eq!(chunk.start, reached.replace(chunk.end), "chunks are contiguous");
        });
        (result, reached.get())
    }

    #[test]
    fn touching_stops_with_an_error_when_memory_runs_out() {
        const GIB: usize = 1 << 30;
        // A machine of 4 GiB, and a virtual machine that grows: it always has 300 MiB left.
        assert_eq!(touched(3 * GIB + 5, |reached| 4 * GIB - reached), (Ok(()), 3 * GIB + 5));
        assert_eq!(touched(9 * GIB, |_| 300 << 20), (Ok(()), 9 * GIB));
        assert_eq!(touched(0, |_| 0), (Ok(()), 0));
        let (result, reached) = touched(8 * GIB, |reached| 4 * GIB - reached);
        let error = result.unwrap_err();
        assert_eq!((error.status(), reached), (Status::OutOfHostMemory, 4 * GIB));
        for word in ["4.0 GiB of 8.0 GiB", "limit 0 B (available RAM)"] {
            assert!(error.message().contains(word), "no {word} in: {error}");
        }
    }
}
