//! Reads a log and a trace and draws them.
#![no_main]

#[path = "../../../src/bin/horizon/plot/draw.rs"]
mod draw;
#[path = "../../../src/bin/horizon/plot/read.rs"]
mod read;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut svg = String::new();
    if let Ok(run) = read::Run::read(text.as_bytes(), "run".to_owned()) {
        let _ = draw::draw_runs(&[run], &mut svg);
    }
    if let Ok(spans) = read::read_trace(text, "") {
        let _ = draw::draw_lanes(&spans, &mut svg);
    }
});
