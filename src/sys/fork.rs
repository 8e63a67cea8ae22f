//! Recognizes processes made by `fork`, in which the threads of their parent do not exist.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// True once [`watch`] has registered the handler.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// True in processes forked after that.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Registers the handler that recognizes children of this process. Repeated calls do nothing; two
/// first calls at once register it twice, without harm, and neither waits for the other, which may
/// not exist in a child.
pub fn watch() -> io::Result<()> {
    if WATCHED.load(Ordering::Acquire) {
        return Ok(());
    }
    // SAFETY: the handler only stores to an atomic, which is allowed in a forked child, and the
    // library is never unloaded.
    let error = unsafe { libc::pthread_atfork(None, None, Some(note_fork)) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    WATCHED.store(true, Ordering::Release);
    Ok(())
}

extern "C" fn note_fork() {
    FORKED.store(true, Ordering::Release);
}

/// True if this process was forked from one that had called [`watch`].
pub fn is_child() -> bool {
    FORKED.load(Ordering::Acquire)
}
