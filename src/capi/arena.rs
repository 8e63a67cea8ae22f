//! `hz_arena_t`: large host allocations with a page size and a NUMA placement.

use std::path::Path;

use crate::base::format::Size;
use crate::base::{Error, Result};
use crate::capi::argument::{Numbers, OutPointer};
use crate::capi::enums::Enum;
use crate::capi::guard::guard;
use crate::capi::handle::{Handle, HandleKind, Object, Table};
use crate::capi::log;
use crate::capi::options::limits;
use crate::capi::sized::{In, Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::values::{Values, chosen_size, size, threads_or_all};
use crate::host::{Arena, MemoryKind, Pages, Pool};

sized_struct! {
    hz_arena_options_t, hz_arena_options_init {
        kind: u32 = KINDS.number(Kind::Plain) => Values::of(&KINDS),
        node: u32 = 0,
        pages: u32 = PAGES.number(None) => Values::of(&PAGES),
        host_mem: u64 = 0,
    }
}

sized_struct! {
    hz_arena_info_t, hz_arena_info_init {
        pages: u32 = PAGES.number(None) => Values::of(&PAGES),
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
pub(super) static KINDS: Enum<Kind> = Enum {
    name: "hz_memory_t",
    constants: &[
        (c"HZ_MEMORY_PLAIN", 1, Kind::Plain),
        (c"HZ_MEMORY_NODE", 2, Kind::Node),
        (c"HZ_MEMORY_INTERLEAVED", 3, Kind::Interleaved),
    ],
};

/// `HZ_PAGES_*`.
pub(super) static PAGES: Enum<Option<Pages>> = Enum {
    name: "hz_pages_t",
    constants: &[
        (c"HZ_PAGES_ANY", 0, None),
        (c"HZ_PAGES_SMALL", 1, Some(Pages::Small)),
        (c"HZ_PAGES_TRANSPARENT", 2, Some(Pages::Transparent)),
        (c"HZ_PAGES_EXPLICIT", 3, Some(Pages::Explicit)),
    ],
};

/// A [`MemoryKind`] without its node.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Plain,
    Node,
    Interleaved,
}

impl hz_arena_t {
    pub(super) fn open(options: &hz_arena_options_t, bytes: usize) -> Result<Self> {
        let kind = KINDS.value(options.kind, "kind")?;
        if kind != Kind::Node && options.node != 0 {
            return Err(Error::argument(format!(
                "node is {}; it must be 0 unless kind is HZ_MEMORY_NODE",
                options.node
            )));
        }
        let wanted = PAGES.value(options.pages, "pages")?;
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
pub extern "C" fn hz_arena_touch(arena: Handle<hz_arena_t>, threads: u64) -> hz_status_t {
    guard(|| {
        let hz_arena_t(arena) = &*arena.get("arena")?;
        arena.touch(&Pool::new(threads_or_all(threads)?)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_arena_info(arena: Handle<hz_arena_t>, out_info: Out<hz_arena_info_t>) -> hz_status_t {
    guard(|| {
        let hz_arena_t(arena) = &*arena.get("arena")?;
        out_info.check("out_info")?.write(hz_arena_info_t {
            pages: PAGES.number(Some(arena.pages())),
            address: Numbers::lend(arena.whole()),
            bytes: arena.whole().bytes() as u64,
            ..hz_arena_info_t::defaults()
        });
        Ok(())
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
