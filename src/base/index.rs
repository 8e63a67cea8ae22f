//! Indices that cannot be mistaken for one another.

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// As a position in a slice.
            pub fn at(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            fn from(index: usize) -> Self {
                $name(u32::try_from(index).expect(concat!($word, " index fits 32 bits")))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

index!(
    /// What is streamed as one piece: 0 is the embedding, 1 … L the decoder layers, L + 1 the head.
    UnitIndex,
    "unit"
);
index!(
    /// A place in device memory that holds one layer's weights.
    SlotIndex,
    "slot"
);
index!(
    /// A place in device memory that a rounded gradient waits in until it has left.
    SlabIndex,
    "slab"
);
index!(
    /// A place in device memory that boundaries of a micro-batch, or layers' sums, pass through.
    SpillIndex,
    "spill buffer"
);
index!(
    /// A micro-batch's place among those of its sweep, counted from 0.
    MicroSlotIndex,
    "micro-batch slot"
);
index!(
    /// A micro-batch of the step, counted from 0.
    MicroIndex,
    "micro"
);
index!(
    /// A piece of a unit's gradient that fits one slab, counted from 0. A layer has one part.
    ChunkIndex,
    "chunk"
);
