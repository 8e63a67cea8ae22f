//! L2: the host's RAM, cores and files.
//!
//! Memory limits, NUMA nodes, pages, arenas, worker threads, files and folders. Knows nothing about
//! models, devices or schedules. Arenas are allocated once; afterwards nothing here allocates
//! memory for a step.

mod arena;
mod doorbell;
pub mod files;
pub mod folder;
pub mod input;
mod isa;
mod limits;
mod others;
mod pages;
mod pin;
mod pool;
mod resident;
mod span;
mod thread;
mod topology;

pub use arena::{Arena, MemoryKind};
pub use doorbell::Doorbell;
pub use isa::Isa;
pub use limits::{Limit, Limits, ram_bytes, ram_bytes_under};
pub use others::Others;
pub use pages::{HugePages, Pages};
pub use pin::{Pin, Pinning};
pub use pool::{Pool, check_threads, threads_max};
pub use resident::resident_bytes;
pub use span::{HostSpan, Plain, Span, side};
pub use thread::{start_deep_thread, start_scoped_thread, start_thread};
pub use topology::{Node, Topology, node_of_pci, node_of_pci_under, processor_name, processor_name_under};
