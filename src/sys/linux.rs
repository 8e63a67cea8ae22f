//! The operating system's names: memory maps, page sizes, futexes.
//!
//! Each function is one system call with Rust types around it. Failures are [`std::io::Error`]s as the
//! kernel gave them; what they mean is said by the floor above.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

/// Bytes of a page of memory.
pub fn page_bytes() -> usize {
    // SAFETY: `sysconf` reads a constant of the process and takes no pointer.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("the page size is positive")
}

/// Maps `bytes` of private anonymous memory: zeroed, page-aligned, readable and writable. `bytes` is not 0.
pub fn map_anonymous(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(base.cast()).expect("the kernel never maps at address 0 unasked"))
}

/// Returns a mapping to the kernel.
///
/// # Safety
/// `base` and `bytes` are those of one [`map_anonymous`], and nothing uses the memory any more.
pub unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller gives back a whole mapping that it owns and that nobody uses.
    let status = unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
    debug_assert_eq!(status, 0, "munmap refuses only a range that was never mapped");
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
