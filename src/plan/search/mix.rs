//! Placements as a few counts: how many layers have what, and which ones they are.

use super::Question;
use crate::model::Recompute;
use crate::schedule::{Boundary, GradWait, LayerPlacement, Placement, Sum};

/// What a layer can have more of on the device than the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Products are kept from forward to backward.
    Selective,
    /// All activations are kept.
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
    pub const ALL: [Attribute; 5] =
        [Attribute::Selective, Attribute::None, Attribute::Kept, Attribute::Resident, Attribute::Own];
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
    /// By attribute. `Selective` counts the layers that keep at least their products, `None` among these.
    pub counts: [usize; Attribute::ALL.len()],
    /// By attribute; that of `None` is within `Selective`'s.
    pub spreads: [Spread; Attribute::ALL.len()],
}

impl Mix {
    /// How many layers have an attribute.
    pub fn count(&self, attribute: Attribute) -> usize {
        self.counts[attribute as usize]
    }

    /// The same with another count; one attribute pulls the one it rests on along.
    pub fn with(&self, attribute: Attribute, count: usize) -> Mix {
        let mut mix = self.clone();
        mix.counts[attribute as usize] = count;
        let [selective, none] = [Attribute::Selective as usize, Attribute::None as usize];
        if attribute == Attribute::None {
            mix.counts[selective] = mix.counts[selective].max(count);
        } else {
            mix.counts[none] = mix.counts[none].min(mix.counts[selective]);
        }
        mix
    }

    /// The placement it stands for.
    pub fn placement(&self, question: &Question) -> Placement {
        let layers = question.config.dims.l;
        let has = |attribute: Attribute, layer: usize| {
            let at = attribute as usize;
            self.spreads[at].takes(layer, layers, self.counts[at])
        };
        // A rank among those that keep their products decides who keeps all.
        let selective = self.count(Attribute::Selective);
        let mut rank = 0;
        let mut recompute = |layer: usize| {
            if !has(Attribute::Selective, layer) {
                return Recompute::Full;
            }
            rank += 1;
            let none = self.count(Attribute::None);
            match self.spreads[Attribute::None as usize].takes(rank - 1, selective, none) {
                true => Recompute::None,
                false => Recompute::Selective,
            }
        };
        let mut place = |layer: usize| LayerPlacement {
            recompute: recompute(layer),
            boundary: if has(Attribute::Kept, layer) { Boundary::Kept } else { Boundary::Spilled },
            resident: has(Attribute::Resident, layer),
            sum: if has(Attribute::Own, layer) { Sum::Own } else { Sum::Passing },
        };
        Placement {
            weight_slots: self.slots,
            slabs: self.slabs,
            ring: question.pins.ring,
            adam: question.adam(self.wait),
            grad_wait: self.wait,
            sweeps: self.sweeps,
            layers: (0..layers).map(|layer| question.pins.of(layer, place(layer))).collect(),
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
