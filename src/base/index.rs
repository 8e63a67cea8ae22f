//! Index newtypes: the compiler rejects an index of another kind.

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The index as a `usize`, for slices.
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
    /// A unit: 0 is the embedding, 1 … L are the decoder layers, L + 1 is the head.
    UnitIndex,
    "unit"
);
index!(
    /// A device buffer for one layer's weights.
    SlotIndex,
    "slot"
);
index!(
    /// A device staging buffer that holds a rounded gradient until it is downloaded.
    SlabIndex,
    "slab"
);
index!(
    /// A device buffer through which spilled boundaries, or spilled gradient accumulators, are copied.
    SpillIndex,
    "spill buffer"
);
index!(
    /// The position of a micro-batch within its sweep, counted from 0.
    MicroSlotIndex,
    "micro-batch slot"
);
index!(
    /// The position of a micro-batch within its step, counted from 0.
    MicroIndex,
    "micro"
);
index!(
    /// A chunk of a unit's gradient that fits one slab, counted from 0. A layer has one chunk.
    ChunkIndex,
    "chunk"
);
