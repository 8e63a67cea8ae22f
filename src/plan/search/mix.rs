//! Placements described by counts: the number of layers that have each attribute, and how they are
//! spread.

use super::Question;
use crate::model::Recompute;
use crate::schedule::{Accumulator, Boundary, GradWait, LayerPlacement, Placement};

/// An attribute that makes a layer take more device memory than the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Attention outputs are saved from forward to backward: [`Recompute::Linears`].
    Linears,
    /// Queries, keys, values and the post-attention residual are saved, too: [`Recompute::Mlp`].
    Mlp,
    /// All matmul outputs are saved: [`Recompute::Selective`].
    Selective,
    /// All activations are saved: [`Recompute::None`].
    None,
    /// The boundary is kept on the device.
    Kept,
    /// The weights stay on the device through the step.
    Resident,
    /// The f32 accumulator stays on the device between sweeps.
    Own,
}

impl Attribute {
    /// All attributes.
    pub const ALL: [Attribute; 7] = [
        Attribute::Linears,
        Attribute::Mlp,
        Attribute::Selective,
        Attribute::None,
        Attribute::Kept,
        Attribute::Resident,
        Attribute::Own,
    ];

    /// Attributes of saved activations, each including the one before it: the first ones of
    /// [`Attribute::ALL`].
    const ACTIVATIONS: usize = 4;

    /// True for attributes of saved activations.
    pub fn is_of_activations(self) -> bool {
        (self as usize) < Self::ACTIVATIONS
    }
}

/// The layers that have an attribute, if not all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spread {
    /// The last layers, which run backward first.
    Top,
    /// The first layers.
    Bottom,
    /// Layers at even distances.
    Even,
}

impl Spread {
    /// All attributes.
    pub const ALL: [Spread; 3] = [Spread::Top, Spread::Bottom, Spread::Even];

    /// True if layer `layer` of `layers` is one of the `count` layers that have the attribute.
    fn takes(self, layer: usize, layers: usize, count: usize) -> bool {
        match self {
            Spread::Top => layer + count >= layers,
            Spread::Bottom => layer < count,
            Spread::Even => (layer + 1) * count / layers > layer * count / layers,
        }
    }
}

/// A placement described by counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mix {
    pub slots: usize,
    pub slabs: usize,
    pub sweeps: usize,
    pub wait: GradWait,
    /// By attribute: the number of layers. Each count of saved activations includes the layers that
    /// save more, so none is larger than the one before it.
    pub counts: [usize; Attribute::ALL.len()],
    /// By attribute: the spread. For saved activations, within the layers of the attribute before
    /// it.
    pub spreads: [Spread; Attribute::ALL.len()],
}

impl Mix {
    /// The number of layers that have an attribute.
    pub fn count(&self, attribute: Attribute) -> usize {
        self.counts[attribute as usize]
    }

    /// The same mix with another count. Other counts of saved activations follow, so that each
    /// still includes the next.
    pub fn with(&self, attribute: Attribute, count: usize) -> Mix {
        let (mut mix, number) = (self.clone(), attribute as usize);
        mix.counts[number] = count;
        if attribute.is_of_activations() {
            let (below, above) = mix.counts[..Attribute::ACTIVATIONS].split_at_mut(number);
            below.iter_mut().for_each(|other| *other = (*other).max(count));
            above.iter_mut().for_each(|other| *other = (*other).min(count));
        }
        mix
    }

    /// The placement described by these counts.
    pub fn placement(&self, question: &Question) -> Placement {
        let layers = question.layout.layers();
        let has = |attribute: Attribute, layer: usize| {
            let at = attribute as usize;
            self.spreads[at].takes(layer, layers, self.counts[at])
        };
        // The rank among the layers that save this much decides which of them save more.
        let mut taken = [0; Attribute::ACTIVATIONS];
        let mut recompute = |layer: usize| {
            let (mut rank, mut of) = (layer, layers);
            for (number, taken) in taken.iter_mut().enumerate() {
                if !self.spreads[number].takes(rank, of, self.counts[number]) {
                    return Recompute::ALL[number];
                }
                (rank, of) = (*taken, self.counts[number]);
                *taken += 1;
            }
            Recompute::None
        };
        let mut free = |layer: usize| LayerPlacement {
            recompute: recompute(layer),
            boundary: if has(Attribute::Kept, layer) { Boundary::Kept } else { Boundary::Spilled },
            resident: has(Attribute::Resident, layer),
            accumulator: if has(Attribute::Own, layer) {
                Accumulator::OnDevice
            } else {
                Accumulator::Spilled
            },
        };
        Placement {
            weight_slots: self.slots,
            slabs: self.slabs,
            ring: question.fixed.ring,
            adam: question.adam(self.wait),
            grad_wait: self.wait,
            sweeps: self.sweeps,
            layers: (0..layers).map(|layer| question.fixed.of(layer, free(layer))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spread_takes_exactly_count_layers() {
        for spread in Spread::ALL {
            for layers in 1..20 {
                for count in 0..=layers {
                    let taken = (0..layers).filter(|&layer| spread.takes(layer, layers, count)).count();
                    assert_eq!(taken, count, "{spread:?} of {layers}");
                }
            }
        }
    }
}
