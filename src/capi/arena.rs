//! `hz_arena_t`: large host allocations with a page size and a NUMA placement.

use std::path::Path;

use crate::base::format::Size;
use crate::base::{Error, Result};
use crate::capi::argument::{Numbers, OutPointer, size};
use crate::capi::config::{choose, chosen_size, threads_or_all};
use crate::capi::guard::guard;
use crate::capi::handle::{Handle, HandleKind, Object, Table};
use crate::capi::log;
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::values::{Enum, Values};
use crate::host::{Arena, Limits, MemoryKind, Pages, Pool};

sized_struct! {
    hz_arena_options_t, hz_arena_options_init {
        kind: u32 = Kind::Plain as u32 => Values::of(&KINDS),
        node: u32 = 0,
        pages: u32 = PAGES_ANY => Values::of(&PAGES),
        host_mem: u64 = 0,
    }
}

sized_struct! {
    hz_arena_info_t, hz_arena_info_init {
        pages: u32 = PAGES_ANY => Values::of(&PAGES),
        address: Numbers = Numbers::NULL,
        bytes: u64 = 0,
    }
}

/// An arena. Immutable, so threads may share it.
pub struct hz_arena_t(Arena);

impl Object for hz_arena_t {
    fn table() -> &'static Table<Self> {
        static TABLE: Table<hz_arena_t> = Table::new(HandleKind::Arena);
        &TABLE
    }
}

/// `HZ_MEMORY_*`.
static KINDS: Enum = Enum {
    name: "hz_memory_t",
    values: &[("HZ_MEMORY_PLAIN", 1), ("HZ_MEMORY_NODE", 2), ("HZ_MEMORY_INTERLEAVED", 3)],
};

/// `HZ_PAGES_*`.
static PAGES: Enum = Enum {
    name: "hz_pages_t",
    values: &[
        ("HZ_PAGES_ANY", 0),
        ("HZ_PAGES_SMALL", 1),
        ("HZ_PAGES_TRANSPARENT", 2),
        ("HZ_PAGES_EXPLICIT", 3),
    ],
};

/// `HZ_MEMORY_*`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain = 1,
    Node = 2,
    Interleaved = 3,
}

/// `HZ_PAGES_ANY`; see [`pages_number`] for the others.
const PAGES_ANY: u32 = 0;

/// `HZ_PAGES_*`.
fn pages_number(pages: Pages) -> u32 {
    match pages {
        Pages::Small => 1,
        Pages::Transparent => 2,
        Pages::Explicit => 3,
    }
}

/// The memory limits; logs a warning if `host_mem` exceeds what the machine reports.
pub(super) fn limits(stated: Option<usize>) -> Limits {
    let limits = Limits::read(stated);
    if let Some(warning) = limits.warning() {
        log::warning(warning);
    }
    limits
}

impl hz_arena_t {
    pub(super) fn open(options: &hz_arena_options_t, bytes: usize) -> Result<Self> {
        let kinds = [Kind::Plain, Kind::Node, Kind::Interleaved];
        let kind = choose(options.kind, &kinds, |kind| kind as u32, "kind", "HZ_MEMORY_")?;
        if kind != Kind::Node && options.node != 0 {
            return Err(Error::argument(format!(
                "node is {}; it must be 0 unless kind is HZ_MEMORY_NODE",
                options.node
            )));
        }
        let wanted = match options.pages {
            PAGES_ANY => None,
            number => {
                let all = [Pages::Small, Pages::Transparent, Pages::Explicit];
                Some(choose(number, &all, pages_number, "pages", "HZ_PAGES_")?)
            }
        };
        if bytes == 0 {
            return Err(Error::argument("bytes is 0; it must be at least 1"));
        }
        limits(chosen_size(options.host_mem, "host_mem")?).admit("the arena", bytes)?;
        let kind = match kind {
            Kind::Plain => MemoryKind::Plain,
            Kind::Node => MemoryKind::Node(options.node),
            Kind::Interleaved => MemoryKind::Interleaved,
        };
        let arena = Arena::take_under(Path::new("/"), bytes, kind, wanted)?;
        log::info(format!("arena opened: {}, {}", Size(bytes), arena.pages()));
        Ok(hz_arena_t(arena))
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_arena_open(
    options: In<hz_arena_options_t>,
    bytes: u64,
    out_arena: OutPointer<Handle<hz_arena_t>>,
) -> hz_status_t {
    guard(|| {
        out_arena.check("out_arena")?;
        out_arena.write(Handle::open(hz_arena_t::open(&options.read("options")?, size(bytes, "bytes")?)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_arena_info(arena: Handle<hz_arena_t>, out_info: Out<hz_arena_info_t>) -> hz_status_t {
    guard(|| {
        let hz_arena_t(arena) = &*arena.get("arena")?;
        out_info.check("out_info")?.write(hz_arena_info_t {
            pages: pages_number(arena.pages()),
            address: Numbers::lend(arena.whole()),
            bytes: arena.whole().bytes() as u64,
            ..hz_arena_info_t::defaults()
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_arena_touch(arena: Handle<hz_arena_t>, threads: u64) -> hz_status_t {
    guard(|| {
        let hz_arena_t(arena) = &*arena.get("arena")?;
        arena.touch(&Pool::new(threads_or_all(threads)?)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_arena_node_at(
    arena: Handle<hz_arena_t>,
    offset: u64,
    out_node: OutPointer<u32>,
) -> hz_status_t {
    guard(|| {
        let hz_arena_t(arena) = &*arena.get("arena")?;
        out_node.check("out_node")?;
        let (offset, bytes) = (size(offset, "offset")?, arena.whole().bytes());
        if offset >= bytes {
            return Err(Error::argument(format!("offset is {offset}; the arena has {bytes} bytes")));
        }
        out_node.write(arena.node_at(offset)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_arena_close(arena: Handle<hz_arena_t>) {
    if !arena.is_null() {
        guard(|| arena.close("arena"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::header::assert_enum;

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_enum(
            "hz_memory_t",
            &[
                ("HZ_MEMORY_PLAIN", Kind::Plain as u32),
                ("HZ_MEMORY_NODE", Kind::Node as u32),
                ("HZ_MEMORY_INTERLEAVED", Kind::Interleaved as u32),
            ],
        );
        assert_enum(
            "hz_pages_t",
            &[
                ("HZ_PAGES_ANY", PAGES_ANY),
                ("HZ_PAGES_SMALL", pages_number(Pages::Small)),
                ("HZ_PAGES_TRANSPARENT", pages_number(Pages::Transparent)),
                ("HZ_PAGES_EXPLICIT", pages_number(Pages::Explicit)),
            ],
        );
    }
}
