//! The settings and functions that messages name, as each front end spells them.

use std::fmt;

use crate::base::message::phrase;

macro_rules! names {
    ($($name:ident: $command:literal $c:literal $rust:literal,)*) => {
        /// A setting or function that messages name. Its `Display` form is a [`phrase`] for a
        /// [`Message`](crate::base::Message).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the table says what each is")]
        pub enum Name {
            $($name,)*
        }

        impl Name {
            /// Every name.
            pub const ALL: &'static [Name] = &[$(Name::$name,)*];

            /// The spellings in the command, C and Rust. An option of the command begins with `--`.
            pub const fn spellings(self) -> [&'static str; 3] {
                match self {
                    $(Name::$name => [$command, $c, $rust],)*
                }
            }
        }
    };
}

names! {
    // name         command             C                       Rust
    Device:         "--device"          "device"                "device",
    DeviceMem:      "--device-mem"      "device_mem"            "device_mem",
    HostMem:        "--host-mem"        "host_mem"              "host_mem",
    Pinning:        "--pinning"         "pinning"               "pinning",
    Threads:        "--threads"         "threads"               "threads",
    GemmTable:      "--gemm-table"      "gemm_table"            "gemm_table",
    Tracing:        "--trace"           "tracing"               "tracing",
    Mode:           "--mode"            "mode"                  "mode",
    GradDtype:      "--grad-dtype"      "grad_dtype"            "grad_dtype",
    Sequences:      "--micro-batch"     "sequences"             "shape.b",
    SequenceLength: "--seq-len"         "sequence_length"       "shape.t",
    MicrosMax:      "--grad-accum"      "micros_max"            "micros_max",
    LogitsChunk:    "logits-chunk"      "logits_chunk"          "logits_chunk",
    WeightSlots:    "--slots"           "weight_slots"          "weight_slots",
    Slabs:          "--slabs"           "slabs"                 "slabs",
    Sweeps:         "--sweeps"          "sweeps"                "sweeps",
    GradPlace:      "--grad-place"      "grad_place"            "grad_wait",
    AdamWhen:       "AdamW"             "adam_when"             "adam_when",
    Layers:         "layers"            "layers"                "layers",
    Recompute:      "--recompute"       "layers[].recompute"    "layers[].recompute",
    Boundary:       "--spill"           "layers[].boundary"     "layers[].boundary",
    Resident:       "--resident"        "layers[].resident"     "layers[].resident",
    Accumulator:    "--accum-on-device" "layers[].accumulator"  "layers[].accumulator",
    LearningRate:   "--lr"              "lr"                    "lr",
    Clip:           "--clip"            "clip"                  "clip",
    WeightDecay:    "--weight-decay"    "weight_decay"          "weight_decay",
    Beta1:          "--beta1"           "beta1"                 "beta1",
    Beta2:          "--beta2"           "beta2"                 "beta2",
    Eps:            "--eps"             "eps"                   "eps",
    Fresh:          "--init"            "hz_trainer_init_weights"       "Trainer::write_fresh",
    Accumulate:     "accumulate"        "hz_trainer_accumulate" "Trainer::accumulate",
    Update:         "update"            "hz_trainer_update"     "Trainer::update",
    Discard:        "discard"           "hz_trainer_discard"    "Trainer::discard",
    SaveWait:       "save_wait"         "hz_trainer_save_wait"  "Trainer::save_wait",
    Resume:         "--resume"          "hz_trainer_resume"     "Checkpoint::restore_into",
}

impl Name {
    /// Returns the name under which checkpoints store the setting.
    pub const fn key(self) -> &'static str {
        let [command, ..] = self.spellings();
        match command.as_bytes() {
            [b'-', b'-', ..] => command.split_at(2).1,
            _ => command,
        }
    }

    /// Returns the name with this spelling, that of any front end, or this key.
    pub fn find(spelling: &str) -> Option<Name> {
        let spelled = |name: &&Name| name.key() == spelling || name.spellings().contains(&spelling);
        Name::ALL.iter().find(spelled).copied()
    }

    /// The prefixes of the setting's values in C and Rust.
    const fn prefixes(self) -> Option<[&'static str; 2]> {
        match self {
            Name::Device => Some(["HZ_DEVICE_", "DeviceChoice::"]),
            Name::Pinning => Some(["HZ_PINNING_", "Pinning::"]),
            Name::Mode => Some(["HZ_MODE_", "Mode::"]),
            Name::GradDtype => Some(["HZ_DTYPE_", "DType::"]),
            Name::GradPlace => Some(["HZ_PLACE_", "GradWait::"]),
            Name::AdamWhen => Some(["HZ_ADAM_WHEN_", "AdamWhen::"]),
            _ => None,
        }
    }

    /// Returns the phrase for a value of the setting. Words of a named value are separated by
    /// spaces, as in `under backward`.
    pub fn value(self, value: impl fmt::Display) -> String {
        let value = value.to_string();
        match self.prefixes() {
            Some([c, rust]) => phrase(
                &value,
                format!("{c}{}", value.to_uppercase().replace(' ', "_")),
                format!("{rust}{}", value.split(' ').map(capitalized).collect::<String>()),
            ),
            None => value,
        }
    }

    /// Returns the advice to do without a GPU, for the end of a message.
    pub fn without_gpu() -> String {
        format!("; {} runs without a GPU", Name::Device.is("cpu"))
    }

    /// Returns the phrase for a CUDA device, by its ordinal.
    pub fn cuda_device(ordinal: usize) -> String {
        let device = format!("device cuda:{ordinal}");
        phrase(&device, format!("{device} (HZ_DEVICE_CUDA, index {ordinal})"), &device)
    }

    /// Returns the phrase that gives the setting a value: `--clip 0`, in C and Rust `clip = 0`.
    pub fn is(self, value: impl fmt::Display) -> String {
        let [command, c, rust] = self.spellings();
        let value = self.value(value);
        phrase(format!("{command} {value}"), format!("{c} = {value}"), format!("{rust} = {value}"))
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [command, c, rust] = self.spellings();
        f.write_str(&phrase(command, c, rust))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Front, Message};

    fn forms(text: String) -> [String; 3] {
        let message = Message::from(text);
        [Front::Command, Front::C, Front::Rust].map(|front| message.render(front).into_owned())
    }

    #[test]
    fn names_and_values_are_those_of_the_front_end() {
        assert_eq!(forms(Name::Sequences.to_string()), ["--micro-batch", "sequences", "shape.b"]);
        assert_eq!(forms(Name::Clip.is(0)), ["--clip 0", "clip = 0", "clip = 0"]);
        let mode = ["--mode exact", "mode = HZ_MODE_EXACT", "mode = Mode::Exact"];
        assert_eq!(forms(Name::Mode.is("exact")), mode);
        let under = ["under backward", "HZ_ADAM_WHEN_UNDER_BACKWARD", "AdamWhen::UnderBackward"];
        assert_eq!(forms(Name::AdamWhen.value("under backward")), under);
    }

    #[test]
    fn a_spelling_belongs_to_one_name() {
        for name in Name::ALL {
            for spelling in name.spellings().into_iter().chain([name.key()]) {
                assert_eq!(Name::find(spelling), Some(*name), "{spelling}");
            }
        }
        assert_eq!(Name::find("micro"), None);
    }
}
