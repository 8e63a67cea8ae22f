//! Cutting one stretch of memory into named places.

use std::ops::Range;

/// Bytes: every place starts on its own cache lines, and on what wide copies ask for.
pub const ARENA_ALIGNMENT: usize = 256;

/// Where something lies within its arena, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaRange {
    /// First byte.
    pub offset: usize,
    /// Length, without the padding behind it.
    pub bytes: usize,
}

impl ArenaRange {
    /// What it takes of its arena.
    pub fn padded(&self) -> usize {
        self.bytes.next_multiple_of(ARENA_ALIGNMENT)
    }

    /// The part that `elements` elements of `size` bytes cover.
    pub fn elements(&self, elements: Range<usize>, size: usize) -> ArenaRange {
        let chunk = ArenaRange { offset: self.offset + elements.start * size, bytes: elements.len() * size };
        assert!(chunk.offset + chunk.bytes <= self.offset + self.bytes, "a chunk leaves its place");
        chunk
    }
}

/// What a name takes in total, padding included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// For people: `weight slots`, `boundaries`, …
    pub name: &'static str,
    /// Sum over all places of that name.
    pub bytes: usize,
}

/// Hands out places from offset 0 on and keeps the books.
#[derive(Clone, Debug, Default)]
pub struct Carver {
    cursor: usize,
    regions: Vec<Region>,
    places: Vec<(&'static str, ArenaRange)>,
}

impl Carver {
    /// The next place of `bytes` bytes, accounted to `name`.
    pub fn take(&mut self, name: &'static str, bytes: usize) -> ArenaRange {
        let place = ArenaRange { offset: self.cursor, bytes };
        let padded = place.padded();
        self.cursor += padded;
        self.places.push((name, place));
        match self.regions.iter_mut().rev().find(|region| region.name == name) {
            Some(region) => region.bytes += padded,
            None => self.regions.push(Region { name, bytes: padded }),
        }
        place
    }

    /// Bytes handed out so far, padding included.
    pub fn bytes(&self) -> usize {
        self.cursor
    }

    /// Every place and the name it is accounted to.
    pub fn places(&self) -> &[(&'static str, ArenaRange)] {
        &self.places
    }

    /// The books.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
}
