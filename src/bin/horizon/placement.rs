//! Placement options: buffers, recomputation and offload. They never change the result.

use std::ops::Range;

use clap::{Args, ValueEnum};
use horizon::base::{Error, Result};
use horizon::plan::Fixed;
use horizon::schedule::{Accumulator, Boundary, GradWait, LayerPlacement, Mode, Recompute};

use crate::options::heading::MEMORY;
use crate::options::{at_least_two, positive};

#[derive(Args, Debug)]
pub struct PlacementOptions {
    /// Machine to simulate: a file of `horizon calibrate`, or a name
    ///
    /// Its throughputs and bandwidths predict step times. Memory sizes are those of this machine in
    /// `train`, of the file in `plan`.
    ///
    /// Names: cpu, h200, gh200, h100-sxm, h100-pcie, a100-pcie, rtx5090, rtx4090, rtx3090. Default:
    /// the one most like this machine's device.
    #[arg(long, help_heading = MEMORY, value_name = "FILE|NAME")]
    pub machine: Option<String>,
    /// Activation checkpointing, from full to none [default: searched]
    ///
    /// The part of a layer's forward pass that its backward pass recomputes, from least memory to
    /// least time: full, linears, mlp, selective or none. full: all of it. linears: all but
    /// attention. mlp: the MLP and the first norm. selective: norms and SwiGLU; no matmul is
    /// repeated. none: nothing; all activations stay on the device.
    ///
    /// HOW is for every layer that no other item names, HOW:LAYERS for some: selective,none:0-3.
    /// Layers that no item names are full. A layer may be named once.
    ///
    /// Compared with Megatron-LM's --recompute-granularity: its full, with one layer per
    /// checkpoint, is full here. Its selective recomputes core attention; here attention never
    /// stores its scores, and selective recomputes norms and SwiGLU.
    #[arg(
        long, help_heading = MEMORY, value_name = "HOW[:LAYERS],…", value_delimiter = ',',
        value_parser = parse_recompute
    )]
    recompute: Vec<(Recompute, Layers)>,
    /// Layers whose inputs are offloaded [default: searched]
    ///
    /// They are in host RAM from forward to backward. These inputs are the activation checkpoints.
    /// With all, device memory does not grow with the number of layers.
    #[arg(long, help_heading = MEMORY, value_name = "LAYERS,…", value_delimiter = ',', value_parser = parse_layers)]
    spill: Vec<Layers>,
    /// Layers whose weights stay on the device [default: searched]
    ///
    /// They are uploaded once per step instead of once per pass.
    #[arg(long, help_heading = MEMORY, value_name = "LAYERS,…", value_delimiter = ',', value_parser = parse_layers)]
    resident: Vec<Layers>,
    /// Weight slots, at least 2 [default: searched]
    ///
    /// Device buffers for a layer's weights. With 2 (double buffering), one layer computes while
    /// the next is uploaded.
    #[arg(long, help_heading = MEMORY, value_name = "N", value_parser = at_least_two)]
    slots: Option<usize>,
    /// Gradient slabs, at least 2 [default: searched]
    ///
    /// Device buffers for downloads. A rounded gradient is staged in a slab while it is copied to
    /// host RAM.
    #[arg(long, help_heading = MEMORY, value_name = "N", value_parser = at_least_two)]
    slabs: Option<usize>,
    /// Sweeps through all layers per step [default: searched]
    ///
    /// A sweep is a forward and a backward pass. Each carries a share of the step's micro-batches.
    /// More sweeps need less device memory for activations, and upload the weights more often.
    #[arg(long, help_heading = MEMORY, value_name = "N", value_parser = positive)]
    sweeps: Option<usize>,
    /// Layers with on-device gradient accumulators [default: searched]
    ///
    /// With several sweeps per step, the f32 accumulators of the other layers go to host RAM
    /// between sweeps.
    #[arg(long, help_heading = MEMORY, value_name = "LAYERS,…", value_delimiter = ',', value_parser = parse_layers)]
    accum_on_device: Vec<Layers>,
    /// Where gradients wait: host or device [default: searched]
    ///
    /// They wait there for AdamW. In mode streamed the default is host. On the device they take 2
    /// bytes per parameter, 4 with --grad-dtype f32, and --mode streamed can clip.
    #[arg(long, help_heading = MEMORY, value_name = "PLACE")]
    grad_place: Option<Where>,
}

/// The memory of a host or a device.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Where {
    Host,
    Device,
}

/// A set of layers, as an option names it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layers {
    /// All layers that no other item of the option names.
    Rest,
    All,
    None,
    /// First and last.
    Range(usize, usize),
}

impl Layers {
    /// The layers of a model with `count` layers; all of them for the rest.
    fn of(self, count: usize, option: &str) -> Result<Range<usize>> {
        match self {
            Layers::Rest | Layers::All => Ok(0..count),
            Layers::None => Ok(0..0),
            Layers::Range(_, last) if last >= count => Err(Error::argument(format!(
                "--{option} names layer {last}; the model has {count} layers, counted from 0"
            ))),
            Layers::Range(first, last) => Ok(first..last + 1),
        }
    }
}

/// The value of each of `count` layers under the items of an option; none if the option was not
/// given. `rest` is for layers that no item names.
fn per_layer<T: Copy>(count: usize, option: &str, items: &[(T, Layers)], rest: T) -> Result<Option<Vec<T>>> {
    let several_rests = items.iter().filter(|(_, layers)| *layers == Layers::Rest).count() > 1;
    if several_rests {
        return Err(Error::argument(format!(
            "--{option} has several items without layers: give one, for the layers that no other item names"
        )));
    }
    if items.len() > 1 && items.iter().any(|(_, layers)| *layers == Layers::None) {
        return Err(Error::argument(format!("--{option} names none and other layers: give none alone")));
    }
    let rest = items.iter().find(|(_, layers)| *layers == Layers::Rest).map_or(rest, |(value, _)| *value);
    let mut named: Vec<Option<T>> = vec![None; count];
    for (value, layers) in items.iter().filter(|(_, layers)| *layers != Layers::Rest) {
        for layer in layers.of(count, option)? {
            if named[layer].replace(*value).is_some() {
                return Err(Error::argument(format!("--{option} names layer {layer} twice: name it once")));
            }
        }
    }
    Ok((!items.is_empty()).then(|| named.into_iter().map(|value| value.unwrap_or(rest)).collect()))
}

impl PlacementOptions {
    /// The part of the placement that the user has fixed, for a model with `layers` layers. Without
    /// `--grad-place`, mode streamed keeps gradients on the host.
    ///
    /// Errors: a layer that is not there or is named twice; mode streamed with clipping and without
    /// `--grad-place device`.
    pub fn fixed(&self, layers: usize, mode: Mode, clip: f64) -> Result<Fixed> {
        let on_device = matches!(self.grad_place, Some(Where::Device));
        if mode == Mode::Streamed && clip > 0.0 && !on_device {
            return Err(Error::argument(format!(
                "--mode streamed updates layers before the global gradient norm is known, and cannot clip to {clip}: \
                 give --clip 0, --grad-place device, or another --mode"
            )));
        }
        let LayerPlacement { recompute, boundary, resident, accumulator } = LayerPlacement::default();
        fn items<T: Copy>(layers: &[Layers], value: T) -> Vec<(T, Layers)> {
            layers.iter().map(|layers| (value, *layers)).collect()
        }
        if self.sweeps == Some(1) && self.accum_on_device.iter().any(|layers| *layers != Layers::None) {
            return Err(Error::argument(
                "--accum-on-device is for the time between sweeps, and --sweeps 1 has a single sweep: \
                 leave one of them out",
            ));
        }
        Ok(Fixed {
            weight_slots: self.slots,
            slabs: self.slabs,
            sweeps: self.sweeps,
            grad_wait: match self.grad_place {
                Some(Where::Device) => Some(GradWait::Device),
                Some(Where::Host) => Some(GradWait::Host),
                None => None,
            },
            streamed_on_host: true,
            recompute: per_layer(layers, "recompute", &self.recompute, recompute)?,
            boundary: per_layer(layers, "spill", &items(&self.spill, Boundary::Spilled), boundary)?,
            resident: per_layer(layers, "resident", &items(&self.resident, true), resident)?,
            accumulator: per_layer(
                layers,
                "accum-on-device",
                &items(&self.accum_on_device, Accumulator::OnDevice),
                accumulator,
            )?,
            ..Fixed::default()
        })
    }
}

fn parse_layers(text: &str) -> Result<Layers, String> {
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|_| "LAYERS must be all, none, a number or a range, as in 3 or 0-7".to_owned())
    };
    match text.split_once('-') {
        _ if text == "all" => Ok(Layers::All),
        _ if text == "none" => Ok(Layers::None),
        None => number(text).map(|layer| Layers::Range(layer, layer)),
        Some((first, last)) => match (number(first)?, number(last)?) {
            (first, last) if last < first => Err(format!("the range {text} ends before it begins")),
            (_, usize::MAX) => Err("no model has that many layers".to_owned()),
            (first, last) => Ok(Layers::Range(first, last)),
        },
    }
}

fn parse_recompute(text: &str) -> Result<(Recompute, Layers), String> {
    let Some((how, layers)) = text.split_once(':') else {
        if text != "none" && parse_layers(text).is_ok() {
            return Err(format!(
                "{text} has no HOW before it: every item is HOW or HOW:LAYERS, as in full:0,full:2-3"
            ));
        }
        return Ok((text.parse()?, Layers::Rest));
    };
    match (how.parse()?, parse_layers(layers)?) {
        (_, Layers::None) => Err(format!("{text} names no layer: leave it out")),
        item => Ok(item),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_all_one_or_a_range() {
        assert_eq!(parse_layers("all"), Ok(Layers::All));
        assert_eq!(parse_layers("none"), Ok(Layers::None));
        assert_eq!(parse_layers("3"), Ok(Layers::Range(3, 3)));
        assert_eq!(parse_layers("0-7"), Ok(Layers::Range(0, 7)));
        for text in ["", "-", "3-", "-3", "7-3", "a", "all-3", "1.5", "0-18446744073709551615"] {
            assert!(parse_layers(text).is_err(), "{text}");
        }
        assert_eq!(Layers::Range(2, 4).of(5, "spill").unwrap(), 2..5);
        let error = Layers::Range(2, 5).of(5, "spill").unwrap_err();
        assert!(error.message().contains("--spill names layer 5"), "{error}");
    }

    #[test]
    fn recompute_is_of_all_or_of_some() {
        assert_eq!(parse_recompute("selective"), Ok((Recompute::Selective, Layers::Rest)));
        assert_eq!(parse_recompute("none"), Ok((Recompute::None, Layers::Rest)));
        assert_eq!(parse_recompute("none:2-3"), Ok((Recompute::None, Layers::Range(2, 3))));
        for text in ["some", "none:", "none:none", "1", "0-1", "all"] {
            assert!(parse_recompute(text).is_err(), "{text}");
        }
    }

    #[test]
    fn layers_are_named_once() {
        let values = |items: &[(char, Layers)]| per_layer(4, "option", items, '-').unwrap();
        assert_eq!(values(&[]), None);
        assert_eq!(values(&[('a', Layers::None)]), Some(vec!['-'; 4]));
        let some = [('a', Layers::Rest), ('b', Layers::Range(1, 2))];
        assert_eq!(values(&some), Some(vec!['a', 'b', 'b', 'a']));
        assert_eq!(values(&some[1..]), Some(vec!['-', 'b', 'b', '-']));
        for items in [
            [('a', Layers::Range(1, 2)), ('b', Layers::Range(2, 3))],
            [('a', Layers::All), ('a', Layers::Range(0, 0))],
            [('a', Layers::Rest), ('b', Layers::Rest)],
            [('a', Layers::None), ('a', Layers::Range(0, 0))],
        ] {
            assert!(per_layer(4, "option", &items, '-').is_err(), "{items:?}");
        }
    }
}
