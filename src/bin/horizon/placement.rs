//! Where things are while they wait, as far as the command line says: it never changes a bit of the result.

use std::ops::Range;

use clap::{Args, ValueEnum};
use horizon::base::{Error, Result};
use horizon::engine::TrainerOptions;
use horizon::schedule::{Boundary, GradWait, LayerPlacement, Recompute, Sum};

use crate::options::positive;

#[derive(Args, Debug)]
#[command(
    next_help_heading = "Placement (never changes a bit of the result; LAYERS is all, 3 or 0-7, from 0)"
)]
pub struct PlacementOptions {
    /// Where rounded gradients wait for AdamW; on the device, where they take 2 or 4 bytes a parameter, --mode
    /// streamed can clip
    #[arg(long, value_name = "PLACE", default_value = "host")]
    grad_place: Where,
    /// Sweeps a step is cut into; each carries a part of its micro-batches through all layers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    sweeps: usize,
    /// Layers whose weights are on the device at a time, at least 2
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = positive)]
    slots: usize,
    /// Gradients on their way out of the device at a time, at least 2
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = positive)]
    slabs: usize,
    /// What backward computes again of a layer instead of finding it on the device: full, selective (no product), or
    /// none, of all layers or of some, e.g. selective,none:0-3 [default: full]
    #[arg(long, value_name = "HOW[:LAYERS],…", value_delimiter = ',', value_parser = parse_recompute)]
    recompute: Vec<(Recompute, Layers)>,
    /// Layers whose inputs wait in host memory from forward to backward; with all, device memory does not grow
    /// with the number of layers
    #[arg(long, value_name = "LAYERS,…", value_delimiter = ',', value_parser = parse_layers)]
    spill: Vec<Layers>,
    /// Layers whose weights stay on the device through a step
    #[arg(long, value_name = "LAYERS,…", value_delimiter = ',', value_parser = parse_layers)]
    resident: Vec<Layers>,
    /// Layers whose f32 gradients stay on the device between the sweeps of a step instead of going to the host
    #[arg(long, value_name = "LAYERS,…", value_delimiter = ',', value_parser = parse_layers)]
    sum_on_device: Vec<Layers>,
}

/// A place.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Where {
    Host,
    Device,
}

/// Some layers; without an end all from the first on.
#[derive(Clone, Debug, PartialEq)]
struct Layers {
    first: usize,
    end: Option<usize>,
}

impl Layers {
    const ALL: Layers = Layers { first: 0, end: None };

    /// Of a model with so many layers.
    fn of(&self, layers: usize, option: &str) -> Result<Range<usize>> {
        let end = self.end.unwrap_or(layers);
        if end > layers {
            let asked = end - 1;
            return Err(Error::argument(format!(
                "--{option} speaks of layer {asked}; the model's {layers} layers count from 0"
            )));
        }
        Ok(self.first..end)
    }
}

impl PlacementOptions {
    /// Puts what is said here into the options of a trainer of a model with so many layers.
    pub fn apply(&self, layers: usize, options: &mut TrainerOptions) -> Result<()> {
        options.grad_wait = match self.grad_place {
            Where::Host => GradWait::Host,
            Where::Device => GradWait::Device,
        };
        (options.sweeps, options.weight_slots, options.slabs) = (self.sweeps, self.slots, self.slabs);
        let mut placements = vec![LayerPlacement::default(); layers];
        for (recompute, which) in &self.recompute {
            let places = &mut placements[which.of(layers, "recompute")?];
            places.iter_mut().for_each(|place| place.recompute = *recompute);
        }
        let mut set = |option: &str, given: &[Layers], set: fn(&mut LayerPlacement)| -> Result<()> {
            given.iter().try_for_each(|which| {
                placements[which.of(layers, option)?].iter_mut().for_each(set);
                Ok(())
            })
        };
        set("spill", &self.spill, |place| place.boundary = Boundary::Spilled)?;
        set("resident", &self.resident, |place| place.resident = true)?;
        set("sum-on-device", &self.sum_on_device, |place| place.sum = Sum::Own)?;
        options.layers = placements;
        Ok(())
    }
}

fn parse_layers(text: &str) -> Result<Layers, String> {
    let number = |text: &str| {
        text.parse::<usize>().map_err(|_| "layers are all, a number, or two: all, 3, 0-7".to_owned())
    };
    let (first, last) = match text.split_once('-') {
        _ if text == "all" => return Ok(Layers::ALL),
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if last < first {
        return Err(format!("layers {text} end before they begin"));
    }
    let end = last.checked_add(1).ok_or("no model has so many layers")?;
    Ok(Layers { first, end: Some(end) })
}

fn parse_recompute(text: &str) -> Result<(Recompute, Layers), String> {
    let (how, layers) = text.split_once(':').unwrap_or((text, "all"));
    let recompute = match how {
        "full" => Recompute::Full,
        "selective" => Recompute::Selective,
        "none" => Recompute::None,
        _ => return Err("it must be full, selective or none, each with :LAYERS if not for all".to_owned()),
    };
    Ok((recompute, parse_layers(layers)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(first: usize, end: usize) -> Layers {
        Layers { first, end: Some(end) }
    }

    #[test]
    fn layers_are_all_one_or_a_range() {
        assert_eq!(parse_layers("all"), Ok(Layers::ALL));
        assert_eq!(parse_layers("3"), Ok(some(3, 4)));
        assert_eq!(parse_layers("0-7"), Ok(some(0, 8)));
        for text in ["", "-", "3-", "-3", "7-3", "a", "all-3", "1.5", "0-18446744073709551615"] {
            assert!(parse_layers(text).is_err(), "{text}");
        }
        assert_eq!(some(2, 5).of(5, "spill").unwrap(), 2..5);
        let error = some(2, 6).of(5, "spill").unwrap_err();
        assert!(error.message().contains("--spill speaks of layer 5"), "{error}");
    }

    #[test]
    fn recompute_is_of_all_or_of_some() {
        assert_eq!(parse_recompute("selective"), Ok((Recompute::Selective, Layers::ALL)));
        assert_eq!(parse_recompute("none:2-3"), Ok((Recompute::None, some(2, 4))));
        assert!(parse_recompute("some").is_err() && parse_recompute("none:").is_err());
    }
}
