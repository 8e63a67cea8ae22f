//! Conversion of CUDA event times to the host's clock.

use std::time::Instant;

use parking_lot::Mutex;

use crate::base::Result;
use crate::sys::cuda::{Event, Stream};

/// Attempts per anchor; the attempt with the shortest wait on the host is used.
const ATTEMPTS: usize = 4;

/// The age in nanoseconds at which an anchor is renewed: clocks drift, and CUDA returns time
/// differences as f32 milliseconds, which are exact to a microsecond up to 16 seconds.
const RENEW_NS: u64 = 2_000_000_000;

/// A clock that converts the times of CUDA events to nanoseconds since a host instant.
#[derive(Debug)]
pub struct Timing {
    origin: Instant,
    /// A CUDA stream without work, on which a recorded event completes immediately.
    stream: Stream,
    anchor: Mutex<Anchor>,
}

/// An event and the host time at which it was reached.
#[derive(Debug)]
struct Anchor {
    event: Event,
    spare: Event,
    at_ns: u64,
}

impl Timing {
    /// A clock with times relative to `origin`.
    pub fn new(origin: Instant) -> Result<Timing> {
        let anchor = Mutex::new(Anchor { event: Event::new(true)?, spare: Event::new(true)?, at_ns: 0 });
        let timing = Timing { origin, stream: Stream::new()?, anchor };
        timing.renew(&mut timing.anchor.lock())?;
        Ok(timing)
    }

    /// The origin of its times.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// The host time in nanoseconds since the origin.
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Returns the host time, in nanoseconds since the origin, at which a completed event was
    /// reached.
    pub fn at(&self, event: &Event) -> Result<u64> {
        let anchor = self.anchor.lock();
        let since = event.ns_since(&anchor.event)?;
        Ok(anchor.at_ns.saturating_add_signed(since))
    }

    /// Renews the anchor if it is old. Called between steps.
    pub fn keep_fresh(&self) -> Result<()> {
        let mut anchor = self.anchor.lock();
        if self.now() - anchor.at_ns > RENEW_NS { self.renew(&mut anchor) } else { Ok(()) }
    }

    fn renew(&self, anchor: &mut Anchor) -> Result<()> {
        let mut least_ns = u64::MAX;
        for _ in 0..ATTEMPTS {
            let before_ns = self.now();
            anchor.spare.record(&self.stream)?;
            anchor.spare.synchronize()?;
            let waited_ns = self.now() - before_ns;
            if waited_ns < least_ns {
                least_ns = waited_ns;
                std::mem::swap(&mut anchor.event, &mut anchor.spare);
                anchor.at_ns = before_ns + waited_ns / 2;
            }
        }
        Ok(())
    }
}
