//! Linux: memory mappings, page sizes, NUMA memory policies, CPU affinity, signal masks, futexes.
//!
//! Most functions wrap one system call, through `nix` where it has the call, otherwise through
//! `libc` (memory policies, futexes). They return the kernel's error as [`std::io::Error`]; callers
//! add context.

use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The page size in bytes.
pub fn page_bytes() -> usize {
    let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).expect("every system has a page size")
}

/// The user whose rights this process has.
pub fn user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Maps `bytes` of private anonymous memory: zeroed, page-aligned, readable and writable, not
/// inherited by forked processes. `bytes` is not 0.
pub fn map_anonymous(bytes: usize) -> io::Result<NonNull<u8>> {
    map(bytes, MapFlags::empty())
}

/// As [`map_anonymous`], with explicit 2 MiB pages, which are reserved by this call. `bytes` is a
/// multiple of 2 MiB.
pub fn map_explicit_huge(bytes: usize) -> io::Result<NonNull<u8>> {
    map(bytes, MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB)
}

fn map(bytes: usize, flags: MapFlags) -> io::Result<NonNull<u8>> {
    let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses touches no existing memory.
    let base = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE | flags) }?.cast();
    // Otherwise this process would copy each page that it writes while a child lives. A kernel that
    // refuses the advice does that.
    let _ = advise(base, bytes.get(), MmapAdvise::MADV_DONTFORK);
    Ok(base)
}

/// Unmaps whole pages of a mapping.
///
/// # Safety
/// The pages belong to mappings made by this module, and nothing uses them any more.
pub unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller owns the pages, and nothing uses them.
    let unmapped = unsafe { munmap(base.cast(), bytes) };
    debug_assert!(unmapped.is_ok(), "munmap failed: the range does not consist of whole pages");
}

/// Asks for transparent 2 MiB pages in a mapping (`MADV_HUGEPAGE`).
pub fn advise_huge(base: NonNull<u8>, bytes: usize) -> io::Result<()> {
    advise(base, bytes, MmapAdvise::MADV_HUGEPAGE)
}

/// Asks for small pages in a mapping (`MADV_NOHUGEPAGE`), for systems where transparent huge pages
/// are the default.
pub fn advise_small(base: NonNull<u8>, bytes: usize) -> io::Result<()> {
    advise(base, bytes, MmapAdvise::MADV_NOHUGEPAGE)
}

fn advise(base: NonNull<u8>, bytes: usize, advice: MmapAdvise) -> io::Result<()> {
    // SAFETY: advice about page sizes and forks changes no byte; an unmapped range is an error, not an
    // access.
    Ok(unsafe { madvise(base.cast(), bytes, advice) }?)
}

/// A NUMA policy for the pages of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePolicy {
    /// Pages come from the given nodes only.
    Bind,
    /// Pages come from the given nodes in turn.
    Interleave,
}

/// A set of nodes as a bit mask.
type NodeMask = [libc::c_ulong; 16];
/// The mask's length argument: the kernel subtracts one from it.
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

/// Runs `allocate` while the calling thread prefers memory of these nodes (`MPOL_PREFERRED`), then
/// restores the thread's policy. Without nodes, or if the policy cannot be read or set, `allocate`
/// runs under the thread's own policy.
pub fn preferring<R>(nodes: &[u32], allocate: impl FnOnce() -> R) -> R {
    let (mut own, mut own_mask): (libc::c_int, NodeMask) = (libc::MPOL_DEFAULT, [0; 16]);
    // SAFETY: the kernel writes one int and at most the stated number of bits of the mask; the
    // address is null.
    let known = unsafe {
        let (mask, nowhere) = (own_mask.as_mut_ptr(), ptr::null::<u8>());
        libc::syscall(libc::SYS_get_mempolicy, &raw mut own, mask, MASK_BITS - 1, nowhere, 0) == 0
    };
    let set = |policy: libc::c_int, mask: &NodeMask| {
        // SAFETY: the kernel reads at most the stated number of bits of the mask, which outlives
        // the call.
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

/// Sets the NUMA policy of a mapping's pages that have not been touched yet.
pub fn set_nodes(base: NonNull<u8>, bytes: usize, policy: NodePolicy, nodes: &[u32]) -> io::Result<()> {
    let mask = mask_of(nodes)?;
    let policy = match policy {
        NodePolicy::Bind => libc::MPOL_BIND,
        NodePolicy::Interleave => libc::MPOL_INTERLEAVE,
    };
    // SAFETY: the kernel reads the mask and no byte of the mapping; pages that exist already stay
    // where they are.
    check(unsafe {
        let no_flags = 0;
        libc::syscall(libc::SYS_mbind, base.as_ptr(), bytes, policy, mask.as_ptr(), MASK_BITS, no_flags)
    })
}

/// The NUMA node of the page at an address. The caller must have touched the page.
pub fn node_of(address: NonNull<u8>) -> io::Result<u32> {
    let mut node: libc::c_int = -1;
    // From linux/mempolicy.h: return the node, for an address.
    const MPOL_F_NODE: libc::c_int = 1;
    const MPOL_F_ADDR: libc::c_int = 2;
    let flags = MPOL_F_NODE | MPOL_F_ADDR;
    let no_mask = ptr::null_mut::<libc::c_ulong>();
    // SAFETY: the kernel writes one int and looks the address up in the page table; the mask is null.
    check(unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut node, no_mask, 0, address.as_ptr(), flags)
    })?;
    u32::try_from(node).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Restricts the calling thread to the given processors.
pub fn run_on(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu as usize)?;
    }
    let this_thread = Pid::from_raw(0);
    Ok(sched_setaffinity(this_thread, &set)?)
}

/// The processor that the calling thread runs on; it may have changed when this returns.
pub fn current_cpu() -> Option<u32> {
    u32::try_from(sched_getcpu().ok()?).ok()
}

/// Signals that report a fault of the thread that receives them. If they were blocked, the kernel
/// would end the process without calling the handler of a crash reporter.
const FAULTS: [Signal; 6] =
    [Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGSEGV, Signal::SIGSYS, Signal::SIGTRAP];

/// Runs `start` while the calling thread blocks all signals except faults, then restores its mask.
/// Threads that `start` creates inherit the mask.
pub fn blocking_signals<R>(start: impl FnOnce() -> R) -> R {
    let mut all = SigSet::all();
    FAULTS.iter().for_each(|fault| all.remove(*fault));
    let own = all.thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("a known action");
    let result = start();
    own.thread_set_mask().expect("a known action");
    result
}

/// Returns true if the process ignores a signal.
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: all zeros is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: the kernel only writes the current action, which lives until the call returns.
    let status = unsafe { libc::sigaction(signal as libc::c_int, ptr::null(), &mut action) };
    status == 0 && action.sa_sigaction == libc::SIG_IGN
}

fn check(status: libc::c_long) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sleeps while `word` holds `expected`, until [`futex_wake`]. Wake-ups may be spurious.
pub fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the kernel only reads the word, which the borrow keeps alive; a null timeout means no
    // timeout.
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
    // SAFETY: the address is only a key into the kernel's table of waiters; the kernel does not
    // access the word.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            threads_max,
        );
    }
}
