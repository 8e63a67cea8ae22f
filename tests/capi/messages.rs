//! Names in messages: each front end reads its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use horizon::base::{Front, Message, Name};

use crate::{ROOT, declarations};

/// Checks that a message for C has no names of other front ends, and no marks.
pub fn check_message(message: &str) {
    let marks = |c: char| c.is_control() || ('\u{fdd0}'..='\u{fdef}').contains(&c);
    assert!(!message.contains("--") && !message.contains("::") && !message.contains(marks), "{message}");
    for name in Name::ALL {
        // "micro-batch" is a word of messages, too.
        let foreign = name.key() != "micro-batch" && name.key().contains('-') && message.contains(name.key());
        assert!(!foreign, "{} in: {message}", name.key());
    }
}

/// Names in the spellings of [`Name`], e.g. `recompute` in `layers[].recompute`.
fn last_part(spelling: &str) -> &str {
    spelling.rsplit(['.', ':']).next().unwrap()
}

#[test]
fn names_in_messages_are_those_of_the_header_and_of_rust() {
    let read = |path: &str| fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_owned).collect()
    };
    let sources = [
        "src/engine/options.rs",
        "src/engine/trainer/steps.rs",
        "src/engine/trainer/save.rs",
        "src/engine/trainer/tensors.rs",
        "src/engine/backend.rs",
        "src/host/pin.rs",
        "src/base/dtype.rs",
        "src/base/dims.rs",
        "src/optim/adamw/mod.rs",
        "src/schedule/policy.rs",
        "src/checkpoint/read.rs",
    ];
    let (c, rust) = (words(&declarations::code()), words(&sources.map(read).concat()));
    for name in Name::ALL {
        let [_, in_c, in_rust] = name.spellings();
        assert!(c.contains(last_part(in_c)), "{in_c} is not in horizon.h");
        assert!(rust.contains(last_part(in_rust)), "{in_rust} is not in the library");
    }
    for (name, values) in [
        (Name::Device, &["cpu", "cuda"][..]),
        (Name::Pinning, &["registered", "allocated"]),
        (Name::Mode, &["exact", "streamed", "compact"]),
        (Name::GradDtype, &["bf16", "f32"]),
        (Name::GradPlace, &["host", "device"]),
        (Name::AdamWhen, &["after norm", "under backward"]),
    ] {
        for value in values {
            let message = Message::from(name.value(value));
            assert!(
                c.contains(&*message.render(Front::C)),
                "{} is not in horizon.h",
                message.render(Front::C)
            );
            assert!(
                rust.contains(last_part(&message.render(Front::Rust))),
                "{message} is not in the library"
            );
        }
    }
}
