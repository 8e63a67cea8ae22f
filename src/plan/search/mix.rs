//! Placements as a few counts: how many layers have what, and which ones they are.

use super::Question;
use crate::model::Recompute;
use crate::schedule::{Accumulator, Boundary, GradWait, LayerPlacement, Placement};

/// What a layer can have more of on the device than the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// What attention gives is kept from forward to backward: [`Recompute::Linears`].
    Linears,
    /// Queries, keys and values, and the stream after attention are kept, too: [`Recompute::Mlp`].
    Mlp,
    /// All matrix products are kept: [`Recompute::Selective`].
    Selective,
    /// All activations are kept: [`Recompute::None`].
    None,
    /// The boundary is kept.
    Kept,
    /// The weights stay through the step.
    Resident,
    /// The f32 sum has a place of its own between sweeps.
    Own,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Attribute; 7] = [
        Attribute::Linears,
        Attribute::Mlp,
        Attribute::Selective,
        Attribute::None,
        Attribute::Kept,
        Attribute::Resident,
        Attribute::Own,
    ];

    /// What layers keep of their activations, each on top of the one before it; the first are those of [`Attribute::ALL`].
    const ACTIVATIONS: usize = 4;

    /// Whether it is about activations.
    pub fn is_of_activations(self) -> bool {
        (self as usize) < Self::ACTIVATIONS
    }
}

/// Which layers are the first to have an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spread {
    /// The last ones, which backward comes to first.
    Top,
    /// The first ones.
    Bottom,
    /// Every so many.
    Even,
}

impl Spread {
    /// All of them.
    pub const ALL: [Spread; 3] = [Spread::Top, Spread::Bottom, Spread::Even];

    /// Whether layer `layer` of `layers` is among the first `count`.
    fn takes(self, layer: usize, layers: usize, count: usize) -> bool {
        match self {
            Spread::Top => layer + count >= layers,
            Spread::Bottom => layer < count,
            Spread::Even => (layer + 1) * count / layers > layer * count / layers,
        }
    }
}

/// A placement by counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mix {
    pub slots: usize,
    pub slabs: usize,
    pub sweeps: usize,
    pub wait: GradWait,
    /// By attribute. Of activations each counts the layers that keep at least that much, so none counts more than the one before
    /// it.
    pub counts: [usize; Attribute::ALL.len()],
    /// By attribute; of activations each is within the one before it.
    pub spreads: [Spread; Attribute::ALL.len()],
}

impl Mix {
    /// How many layers have an attribute.
    pub fn count(&self, attribute: Attribute) -> usize {
        self.counts[attribute as usize]
    }

    /// The same with another count; those of activations that it rests on are pulled along, and those that rest on it.
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

    /// The placement it stands for.
    pub fn placement(&self, question: &Question) -> Placement {
        let layers = question.layout.layers();
        let has = |attribute: Attribute, layer: usize| {
            let at = attribute as usize;
            self.spreads[at].takes(layer, layers, self.counts[at])
        };
        // The rank among those that keep so much decides who keeps more.
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
        let mut place = |layer: usize| LayerPlacement {
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
            layers: (0..layers).map(|layer| question.fixed.of(layer, place(layer))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spread_takes_as_many_as_it_is_told() {
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
