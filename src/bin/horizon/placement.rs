//! Where things are while they wait, as far as the command line says: it never changes a bit of the result.

use std::ops::Range;

use clap::{Args, ValueEnum};
use horizon::base::{Error, Result};
use horizon::plan::Fixed;
use horizon::schedule::{Accumulator, Boundary, GradWait, Mode, Recompute};

use crate::options::positive;

#[derive(Args, Debug)]
#[command(
    next_help_heading = "Placement (what is not given is searched for; never changes a bit of the result; LAYERS is all, \
                         none, 3 or 0-7, from 0)"
)]
pub struct PlacementOptions {
    /// The machine that the search simulates: a file that `horizon calibrate` wrote, or cpu, h200, gh200, h100-pcie, a100-pcie,
    /// rtx4090, rtx3090 [default: the device's]
    #[arg(long, value_name = "FILE|NAME")]
    pub machine: Option<String>,
    /// Where rounded gradients wait for AdamW; on the device, where they take 2 or 4 bytes a parameter, --mode
    /// streamed can clip
    #[arg(long, value_name = "PLACE")]
    grad_place: Option<Where>,
    /// Sweeps a step is cut into; each carries a part of its micro-batches through all layers
    #[arg(long, value_name = "N", value_parser = positive)]
    sweeps: Option<usize>,
    /// Layers whose weights are on the device at a time, at least 2
    #[arg(long, value_name = "N", value_parser = positive)]
    slots: Option<usize>,
    /// Gradients on their way out of the device at a time, at least 2
    #[arg(long, value_name = "N", value_parser = positive)]
    slabs: Option<usize>,
    /// Activations of a layer that backward recomputes, from the least device memory to the least time: full (all), linears (all but
    /// attention), mlp (the feed-forward half and norms), selective (norms and SwiGLU: no matrix product), none; of all
    /// layers, or of some, the rest being full, e.g. selective,none:0-3. Where two items name a layer, the later holds
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
    const NONE: Layers = Layers { first: 0, end: Some(0) };

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
    /// What is decided of the placement of a model with so many layers. Streamed gradients are clipped only where
    /// somebody said that they wait on the device.
    pub fn pins(&self, layers: usize, mode: Mode) -> Result<Fixed> {
        fn pinned<T: Clone, W>(
            (layers, option): (usize, &str),
            given: &[W],
            rest: T,
            says: impl Fn(&W) -> (T, &Layers),
        ) -> Result<Option<Vec<T>>> {
            if given.len() > 1 && given.iter().any(|one| *says(one).1 == Layers::NONE) {
                return Err(Error::argument(format!("--{option} has none beside others: give none alone")));
            }
            let mut all = vec![rest; layers];
            for one in given {
                let (value, which) = says(one);
                all[which.of(layers, option)?].fill(value);
            }
            Ok((!given.is_empty()).then_some(all))
        }
        if self.sweeps == Some(1) && self.sum_on_device.iter().any(|which| *which != Layers::NONE) {
            return Err(Error::argument(
                "--sum-on-device is about sums that wait between sweeps, of which --sweeps 1 has one: leave one of \
                 them out",
            ));
        }
        Ok(Fixed {
            weight_slots: self.slots,
            slabs: self.slabs,
            sweeps: self.sweeps,
            grad_wait: match self.grad_place {
                Some(Where::Device) => Some(GradWait::Device),
                Some(Where::Host) => Some(GradWait::Host),
                None => (mode == Mode::Streamed).then_some(GradWait::Host),
            },
            recompute: pinned((layers, "recompute"), &self.recompute, Recompute::Full, |(how, which)| {
                (*how, which)
            })?,
            boundary: pinned((layers, "spill"), &self.spill, Boundary::Kept, |which| {
                (Boundary::Spilled, which)
            })?,
            resident: pinned((layers, "resident"), &self.resident, false, |which| (true, which))?,
            accumulator: pinned(
                (layers, "sum-on-device"),
                &self.sum_on_device,
                Accumulator::Spilled,
                |which| (Accumulator::OnDevice, which),
            )?,
            ..Fixed::default()
        })
    }
}

fn parse_layers(text: &str) -> Result<Layers, String> {
    let number = |text: &str| {
        text.parse::<usize>().map_err(|_| "layers are all, none, a number, or two: all, 3, 0-7".to_owned())
    };
    let (first, last) = match text.split_once('-') {
        _ if text == "all" => return Ok(Layers::ALL),
        _ if text == "none" => return Ok(Layers::NONE),
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
    Ok((how.parse()?, parse_layers(layers)?))
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
        assert_eq!(parse_layers("none"), Ok(Layers::NONE));
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
