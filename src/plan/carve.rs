//! Divides an arena into named ranges.

use std::ops::Range;

/// Alignment of every range, bytes: whole cache lines, and enough for wide copies.
pub const ARENA_ALIGNMENT: usize = 256;

/// A range of an arena, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaRange {
    /// First byte.
    pub offset: usize,
    /// Length, without the padding behind it.
    pub bytes: usize,
}

impl ArenaRange {
    /// The length including the padding behind it.
    pub fn padded(&self) -> usize {
        self.bytes.next_multiple_of(ARENA_ALIGNMENT)
    }

    /// The subrange of the elements `elements`, each of `size` bytes.
    pub fn elements(&self, elements: Range<usize>, size: usize) -> ArenaRange {
        let range = ArenaRange { offset: self.offset + elements.start * size, bytes: elements.len() * size };
        assert!(range.offset + range.bytes <= self.offset + self.bytes, "the elements exceed their range");
        range
    }
}

/// The total bytes of a region name, padding included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Displayed name: `weight slots`, `boundaries`, …
    pub name: &'static str,
    /// Sum over all ranges of that name.
    pub bytes: usize,
}

/// Hands out ranges from offset 0 on, and sums their bytes by name.
#[derive(Clone, Debug, Default)]
pub struct Carver {
    cursor: usize,
    regions: Vec<Region>,
    places: Vec<(&'static str, ArenaRange)>,
}

impl Carver {
    /// The next range of `bytes` bytes, counted for `name`.
    pub fn take(&mut self, name: &'static str, bytes: usize) -> ArenaRange {
        let range = ArenaRange { offset: self.cursor, bytes };
        let padded = range.padded();
        self.cursor += padded;
        self.places.push((name, range));
        match self.regions.iter_mut().rev().find(|region| region.name == name) {
            Some(region) => region.bytes += padded,
            None => self.regions.push(Region { name, bytes: padded }),
        }
        range
    }

    /// Bytes handed out so far, padding included.
    pub fn bytes(&self) -> usize {
        self.cursor
    }

    /// Every range and the name it is counted for.
    pub fn places(&self) -> &[(&'static str, ArenaRange)] {
        &self.places
    }

    /// Totals by name.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
}
