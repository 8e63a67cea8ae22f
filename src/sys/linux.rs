//! Linux: memory maps, page sizes, memory and processor affinity, futexes.
//!
//! Each function is one system call with Rust types around it: `nix` makes those it knows, `libc` the others
//! (memory policies, futexes). Failures are the kernel's, as [`std::io::Error`]s; the callers explain them.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Bytes of a page of memory.
pub fn page_bytes() -> usize {
    let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).expect("every system has a page size")
}

/// Maps `bytes` of private anonymous memory: zeroed, page-aligned, readable and writable. `bytes` is not 0.
pub fn map_anonymous(bytes: usize) -> io::Result<NonNull<u8>> {
    map(bytes, MapFlags::empty())
}

/// As [`map_anonymous`], from the pool of explicit 2 MiB pages, which are set aside at once. `bytes` is a
/// multiple of 2 MiB.
pub fn map_explicit_huge(bytes: usize) -> io::Result<NonNull<u8>> {
    map(bytes, MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB)
}

fn map(bytes: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    Ok(unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE | flags) }?.cast())
}

/// Returns whole pages of a mapping to the kernel.
///
/// # Safety
/// The pages belong to mappings of this module, and nothing uses them any more.
pub unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller gives back pages that it owns and that nobody uses.
    let unmapped = unsafe { munmap(base.cast(), bytes) };
    debug_assert!(unmapped.is_ok(), "munmap refuses only a range that is no range of pages");
}

/// Asks for transparent 2 MiB pages in a mapping.
pub fn advise_huge(base: NonNull<u8>, bytes: usize) -> io::Result<()> {
    advise(base, bytes, MmapAdvise::MADV_HUGEPAGE)
}

/// Asks for small pages in a mapping, where transparent ones would come unasked.
pub fn advise_small(base: NonNull<u8>, bytes: usize) -> io::Result<()> {
    advise(base, bytes, MmapAdvise::MADV_NOHUGEPAGE)
}

/// Gives advice about the size of pages.
fn advise(base: NonNull<u8>, bytes: usize, size: MmapAdvise) -> io::Result<()> {
    // SAFETY: the size of pages to come changes no byte; a range that is not mapped is an error, not an access.
    Ok(unsafe { madvise(base.cast(), bytes, size) }?)
}

/// Which nodes pages may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePolicy {
    /// From these nodes only.
    Bind,
    /// From these nodes in turn.
    Interleave,
}

/// A set of nodes as the kernel reads it, whose length in bits it is told (it takes one off).
type NodeMask = [libc::c_ulong; 16];
const MASK_BITS: usize = libc::c_ulong::BITS as usize * 16 + 1;

fn mask_of(nodes: &[u32]) -> io::Result<NodeMask> {
    let mut mask = NodeMask::default();
    let bits = libc::c_ulong::BITS as usize;
    for node in nodes {
        let word = mask.get_mut(*node as usize / bits);
        *word.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))? |= 1 << (*node as usize % bits);
    }
    Ok(mask)
}

/// Runs `allocate` while memory that the calling thread asks for comes from these nodes as far as they have any;
/// from anywhere when there are none, or where the thread may not choose. The thread's own choice comes back.
pub fn preferring<R>(nodes: &[u32], allocate: impl FnOnce() -> R) -> R {
    let (mut own, mut own_mask): (libc::c_int, NodeMask) = (libc::MPOL_DEFAULT, [0; 16]);
    // SAFETY: the kernel writes one int and so many bits of the mask; no address is asked about.
    let known = unsafe {
        let (mask, nowhere) = (own_mask.as_mut_ptr(), ptr::null::<u8>());
        libc::syscall(libc::SYS_get_mempolicy, &raw mut own, mask, MASK_BITS - 1, nowhere, 0) == 0
    };
    let set = |policy: libc::c_int, mask: &NodeMask| {
        // SAFETY: the kernel reads so many bits of the mask, which lives through the call.
        unsafe { libc::syscall(libc::SYS_set_mempolicy, policy, mask.as_ptr(), MASK_BITS) == 0 }
    };
    let mask = mask_of(nodes).ok().filter(|_| known && !nodes.is_empty());
    let chosen = mask.is_some_and(|mask| set(libc::MPOL_PREFERRED, &mask));
    let result = allocate();
    if chosen {
        set(own, &own_mask);
    }
    result
}

/// Sets where the untouched pages of a mapping will come from.
pub fn set_nodes(base: NonNull<u8>, bytes: usize, policy: NodePolicy, nodes: &[u32]) -> io::Result<()> {
    let mask = mask_of(nodes)?;
    let policy = match policy {
        NodePolicy::Bind => libc::MPOL_BIND,
        NodePolicy::Interleave => libc::MPOL_INTERLEAVE,
    };
    // SAFETY: the kernel reads the mask and no byte of the mapping; memory that is there already stays where it is.
    check(unsafe {
        let no_flags = 0;
        libc::syscall(libc::SYS_mbind, base.as_ptr(), bytes, policy, mask.as_ptr(), MASK_BITS, no_flags)
    })
}

/// The node that the page at an address lies on. The page has been touched.
pub fn node_of(address: NonNull<u8>) -> io::Result<u32> {
    let mut node: libc::c_int = -1;
    // The flags of linux/mempolicy.h: answer with a node, the one of an address.
    const MPOL_F_NODE: libc::c_int = 1;
    const MPOL_F_ADDR: libc::c_int = 2;
    let flags = MPOL_F_NODE | MPOL_F_ADDR;
    let no_mask = ptr::null_mut::<libc::c_ulong>();
    // SAFETY: the kernel writes one int, looks the address up in the page table, and is given no mask.
    check(unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut node, no_mask, 0, address.as_ptr(), flags)
    })?;
    u32::try_from(node).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Keeps the calling thread on the given processors from now on.
pub fn run_on(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu as usize)?;
    }
    let this_thread = Pid::from_raw(0);
    Ok(sched_setaffinity(this_thread, &set)?)
}

/// The processor that the calling thread is on, which may have changed when this returns.
pub fn current_cpu() -> Option<u32> {
    u32::try_from(sched_getcpu().ok()?).ok()
}

fn check(status: libc::c_long) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sleeps while `word` holds `expected`, until [`futex_wake`]. May return early for no reason.
pub fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the kernel only reads the word, which the borrow keeps alive; a null timeout means none.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            ptr::null::<libc::timespec>(),
        );
    }
}

/// Wakes at most `threads_max` threads that sleep on `word`.
pub fn futex_wake(word: &AtomicU32, threads_max: u32) {
    let threads_max = i32::try_from(threads_max).unwrap_or(i32::MAX);
    // SAFETY: the address is only a key into the kernel's table of sleepers; nothing is read or written there.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            threads_max,
        );
    }
}
