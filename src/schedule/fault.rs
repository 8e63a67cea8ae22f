//! The faults that the checker finds, with the operations and resources involved.

use std::fmt;

use super::operation::Operation;
use super::resource::{Content, Resource};
use crate::base::Error;
use crate::device::{Lane, Tick};

/// An operation of some list, or the issuing thread between lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// The operation; `None` for the issuing thread.
    pub operation: Option<Operation>,
    /// Its list, counted from 1.
    pub list: u64,
    /// Its position in the list, counted from 0.
    pub index: usize,
}

impl Party {
    /// Its lane; `None` for the issuing thread.
    pub fn lane(&self) -> Option<Lane> {
        self.operation.map(|operation| operation.lane())
    }
}

/// The content found in a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The content.
    pub content: Content,
    /// Its writer; `None` for content from before the first list.
    pub by: Option<Party>,
    /// True if it is a copy of weights whose master has been written since.
    pub stale: bool,
}

/// The reason why a list must not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two operations access a resource, at least one of them writes, and no wait orders them.
    Race {
        /// The earlier in program order.
        first: Party,
        /// The later, whose wait is missing.
        second: Party,
        /// The resource that both access.
        resource: Resource,
    },
    /// An operation reads a resource that holds other content than expected.
    Content {
        /// The operation that reads.
        reader: Party,
        /// The resource.
        resource: Resource,
        /// The expected content.
        needs: Content,
        /// The actual content; `None` if the resource was never written.
        found: Option<Held>,
    },
    /// A result that no operation reads before it is overwritten or its list ends.
    Unused {
        /// The operation that wrote it.
        writer: Party,
        /// The resource.
        resource: Resource,
        /// The unused content.
        content: Content,
    },
    /// A wait for a task that has not been issued yet: a possible deadlock.
    NotIssued {
        /// The operation that waits.
        waiter: Party,
        /// The awaited tick.
        tick: Tick,
        /// Tasks issued to that lane before it.
        issued: u64,
    },
    /// A wait for a task that gives no signal.
    NoSignal {
        /// The operation that waits.
        waiter: Party,
        /// The awaited tick.
        tick: Tick,
    },
    /// An access to a resource that does not exist for this policy and model.
    NoSuchResource {
        /// The operation that accesses it.
        party: Party,
        /// The resource.
        resource: Resource,
    },
    /// A list and waits that do not belong to one another.
    Mismatch {
        /// The operation whose tick is not the next of its lane; `None` if the lengths differ.
        party: Option<Party>,
    },
}

impl From<Box<Fault>> for Error {
    fn from(fault: Box<Fault>) -> Self {
        Error::internal(format!(
            "the schedule is incorrect: {fault}; this is a bug in Horizon, please report it"
        ))
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Some(operation) => {
                let (lane, Party { list, index, .. }) = (operation.lane(), self);
                write!(f, "`{operation}` ({lane} lane, list {list}, operation {index})")
            }
            None => write!(f, "the issuing thread (after list {})", self.list),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Race { first, second, resource } => {
                write!(f, "{second} touches {resource} without waiting for {first}")
            }
            Fault::Content { reader, resource, needs, found } => {
                write!(f, "{reader} needs {needs} in {resource}, which holds ")?;
                let Some(Held { content, by, stale }) = found else { return f.write_str("nothing yet") };
                write!(f, "{content}")?;
                if *stale {
                    f.write_str(" from before their last update")?;
                } else if content == needs {
                    f.write_str(" of an earlier list")?;
                }
                match by {
                    Some(party) => write!(f, ", left by {party}"),
                    None => f.write_str(", its initial content"),
                }
            }
            Fault::Unused { writer, resource, content } => {
                write!(f, "nothing uses {content}, which {writer} writes to {resource}")
            }
            Fault::NotIssued { waiter, tick: Tick { lane, count }, issued } => {
                write!(f, "{waiter} waits for task {count} of the {lane} lane, but only {issued} are issued")
            }
            Fault::NoSignal { waiter, tick: Tick { lane, count } } => {
                write!(f, "{waiter} waits for task {count} of the {lane} lane, which gives no signal")
            }
            Fault::NoSuchResource { party, resource } => {
                write!(f, "{party} accesses {resource}, which does not exist for this policy and model")
            }
            Fault::Mismatch { party: Some(party) } => {
                write!(
                    f,
                    "the waits do not belong to the list: the tick of {party} is not the next of its lane"
                )
            }
            Fault::Mismatch { party: None } => {
                f.write_str("the waits do not belong to the list: their numbers of operations differ")
            }
        }
    }
}
