//! Signals that stop the command.
//!
//! SIGHUP, SIGINT and SIGTERM are blocked in every thread and received by one of their own, so that
//! no handler interrupts anything. Signals that were ignored when the process started stay ignored:
//! `nohup` ignores SIGHUP, a shell SIGINT in its background jobs. All others keep their default
//! action, and SIGPIPE is ignored by the runtime of Rust.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use horizon::base::{Error, Result};
use horizon::host::start_thread;
use horizon::sys::linux::is_ignored;
use nix::sys::signal::{SigSet, Signal};
use parking_lot::Mutex;

/// Makes a write beyond the limit of file sizes (`ulimit -f`) fail instead of ending the process.
/// Threads that are started later inherit this.
pub fn make_size_limit_an_error() {
    // Blocking a known signal cannot fail.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
}

/// After a first signal, others within this time are the same request: `timeout` sends each signal
/// twice, and wrappers forward one that the terminal has sent already.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Receives the signals that stop the command.
pub struct Stop {
    /// Set by the first signal during [`Stop::finishing`].
    asked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Work is running that a signal lets come to an end.
    finishes: bool,
    /// The signal that set `asked`, and when.
    first: Option<(Signal, Instant)>,
}

impl Stop {
    /// Starts to listen. To be called before other threads are started, which inherit the blocked
    /// signals. A signal now ends the process at once; `note` is printed for one that does not.
    pub fn listen(note: Option<&'static str>) -> Result<Arc<Stop>> {
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), state: Mutex::default() });
        let mut signals = SigSet::empty();
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
            .into_iter()
            .filter(|signal| !is_ignored(*signal))
            .for_each(|signal| signals.add(signal));
        signals.thread_block().map_err(|error| Error::io("cannot listen for signals", &error.into()))?;
        let listener = stop.clone();
        start_thread("signals", move || {
            while let Ok(signal) = signals.wait() {
                listener.receive(signal, &signals, note);
            }
        })?;
        Ok(stop)
    }

    /// Runs `work`, which should end early once the flag is set. A first signal during it sets the
    /// flag; another one ends the process at once, unless it is a part of the [`SAME_REQUEST`].
    pub fn finishing<R>(&self, work: impl FnOnce(&AtomicBool) -> R) -> R {
        self.state.lock().finishes = true;
        let result = work(&self.asked);
        self.state.lock().finishes = false;
        result
    }

    /// The exit status of a process that the first signal has stopped.
    pub fn exit_code(&self) -> Option<ExitCode> {
        self.state.lock().first.map(|(signal, _)| ExitCode::from(status(signal)))
    }

    fn receive(&self, signal: Signal, signals: &SigSet, note: Option<&'static str>) {
        let mut state = self.state.lock();
        if state.first.is_some_and(|(_, at)| at.elapsed() < SAME_REQUEST) {
            return;
        }
        if !state.finishes || state.first.is_some() {
            // Should the exit hang, the next signal ends the process.
            let _ = signals.thread_unblock();
            std::process::exit(status(signal).into());
        }
        state.first = Some((signal, Instant::now()));
        self.asked.store(true, Ordering::Relaxed);
        if let Some(note) = note {
            let again = if signal == Signal::SIGINT { "press Ctrl-C again" } else { "send another signal" };
            // On a thread of its own: a terminal that accepts no output would block this one, which
            // receives the next signal. If the thread cannot start, the message is dropped.
            let _ = start_thread("note", move || message!("\n{signal}: {note}; {again} to stop at once"));
        }
    }
}

/// 128 + the number of the signal, as shells report a process that a signal has ended.
fn status(signal: Signal) -> u8 {
    128 + signal as u8
}
