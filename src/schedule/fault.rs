//! What a check may object to, said so that the list can be mended.

use std::fmt;

use super::operation::Operation;
use super::resource::{Content, Resource};
use crate::base::Error;
use crate::device::{Lane, Tick};

/// An operation of some list, or the issuing thread between lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// What it does; the issuing thread has none.
    pub operation: Option<Operation>,
    /// Its list, counted from 1.
    pub list: u64,
    /// Its position in the list, counted from 0.
    pub index: usize,
}

impl Party {
    /// Its lane; the issuing thread has none.
    pub fn lane(&self) -> Option<Lane> {
        self.operation.map(|operation| operation.lane())
    }
}

/// What a resource was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What was left there.
    pub content: Content,
    /// By whom; `None` where it was there before the first list.
    pub by: Option<Party>,
    /// Whether it is a copy of weights whose master has been written since.
    pub stale: bool,
}

/// Why a list must not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two operations touch a resource, one of them writes, and nothing orders them.
    Race {
        /// The earlier in program order.
        first: Party,
        /// The later, which lacks a wait.
        second: Party,
        /// What they both touch.
        resource: Resource,
    },
    /// An operation reads what is not there.
    Content {
        /// Who reads.
        reader: Party,
        /// What is read.
        resource: Resource,
        /// What it should hold.
        needs: Content,
        /// What it holds, if anything was ever left there.
        found: Option<Held>,
    },
    /// A result that no operation reads before it is overwritten or its list ends.
    Unused {
        /// Who wrote it.
        writer: Party,
        /// Where.
        resource: Resource,
        /// What nobody reads.
        content: Content,
    },
    /// A wait for a task that has not been issued yet: the lanes might never get on.
    Ahead {
        /// Who waits.
        waiter: Party,
        /// For what.
        tick: Tick,
        /// Tasks issued to that lane before it.
        issued: u64,
    },
    /// A wait for a task that gives no signal.
    Silent {
        /// Who waits.
        waiter: Party,
        /// For what.
        tick: Tick,
    },
    /// A resource that the policy and the model do not have.
    Beyond {
        /// Who touches it.
        party: Party,
        /// What does not exist.
        resource: Resource,
    },
    /// A list and waits that do not belong together.
    Misfit {
        /// The operation whose tick is not the next of its lane; `None` if even the lengths differ.
        party: Option<Party>,
    },
}

impl From<Box<Fault>> for Error {
    fn from(fault: Box<Fault>) -> Self {
        Error::internal(format!("the schedule is not correct: {fault}"))
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
                    f.write_str(" as before their last update")?;
                } else if content == needs {
                    f.write_str(" of an earlier list")?;
                }
                match by {
                    Some(party) => write!(f, ", left by {party}"),
                    None => f.write_str(", as at the start"),
                }
            }
            Fault::Unused { writer, resource, content } => {
                write!(f, "nothing uses {content}, which {writer} leaves in {resource}")
            }
            Fault::Ahead { waiter, tick: Tick { lane, count }, issued } => {
                write!(f, "{waiter} waits for task {count} of the {lane} lane, which has been given {issued}")
            }
            Fault::Silent { waiter, tick: Tick { lane, count } } => {
                write!(f, "{waiter} waits for task {count} of the {lane} lane, which gives no signal")
            }
            Fault::Beyond { party, resource } => {
                write!(f, "{party} touches {resource}, which this policy and model do not have")
            }
            Fault::Misfit { party: Some(party) } => {
                write!(
                    f,
                    "the waits do not belong to the list: {party} has a tick that is not its lane's next"
                )
            }
            Fault::Misfit { party: None } => f.write_str(
                "the waits do not belong to the list: there are more of the ones than of the other",
            ),
        }
    }
}
