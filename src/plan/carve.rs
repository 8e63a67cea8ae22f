//! Cutting one stretch of memory into named places.

use std::ops::Range;

/// Bytes: every place starts on its own cache lines, and on what wide copies ask for.
pub const PLACE_ALIGNMENT: usize = 256;

/// Where something lies within its arena, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// First byte.
    pub offset: usize,
    /// Length, without the padding behind it.
    pub bytes: usize,
}

impl Place {
    /// What it takes of its arena.
    pub fn padded(&self) -> usize {
        self.bytes.next_multiple_of(PLACE_ALIGNMENT)
    }

    /// The part that `elements` elements of `size` bytes cover.
    pub fn elements(&self, elements: Range<usize>, size: usize) -> Place {
        let part = Place { offset: self.offset + elements.start * size, bytes: elements.len() * size };
        assert!(part.offset + part.bytes <= self.offset + self.bytes, "a part leaves its place");
        part
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
    places: Vec<(&'static str, Place)>,
}

impl Carver {
    /// The next place of `bytes` bytes, accounted to `name`.
    pub fn take(&mut self, name: &'static str, bytes: usize) -> Place {
        let place = Place { offset: self.cursor, bytes };
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
    pub fn places(&self) -> &[(&'static str, Place)] {
        &self.places
    }

    /// The books.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
}
