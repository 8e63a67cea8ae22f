//! `horizon sample`.

use std::io::{self, IsTerminal, Read, stderr, stdin, stdout};
use std::ops::ControlFlow;

use horizon::base::format::{escaped, several};
use horizon::base::{Error, Result, Shape};
use horizon::engine::{Trainer, TrainerOptions};
use horizon::host::input;
use horizon::train::{Sampler, continue_text};
use serde_json::json;

use crate::chat_worker::encoder;
use crate::model;
use crate::options::SampleOptions;
use crate::print::print_for_reader;
use crate::progress::Bytes;

/// Continues a prompt, or answers it: raw bytes into a pipe, printable text onto a terminal.
pub fn sample(options: &SampleOptions) -> Result<()> {
    let mut sampler = Sampler::new(options.temperature, options.seed)?;
    let model = model::open(&options.model, false)?;
    if model.is_fresh() {
        return Err(Error::argument(format!(
            "{} is a built-in model without trained weights: train it with --out DIR, then sample from DIR",
            options.model
        )));
    }
    let encoder = encoder(model.tokenizer(), options.chat_template.clone()).open()?;
    let tokenizer = encoder.tokenizer()?;
    let asked = asked(options)?;
    let prompt = if options.chat {
        let content = std::str::from_utf8(&asked)
            .map_err(|error| Error::argument(format!("{} is not UTF-8: {error}", name(options))))?;
        let text = encoder.template()?.prompt(&[json!({"role": "user", "content": content})])?;
        tokenizer.encode(text.as_bytes(), &[])?.tokens
    } else {
        tokenizer.encode_prompt(&asked)?
    };
    if prompt.is_empty() {
        return Err(Error::argument(
            "the prompt is empty; it must have at least one token: give --prompt TEXT",
        ));
    }
    let config = &model.config.model;
    let positions = config.positions_max;
    if prompt.len() > positions {
        message!(
            "warning: the prompt has {} tokens, the model {positions} positions: the first {} are dropped",
            prompt.len(),
            prompt.len() - positions
        );
    }
    let trainer_options = TrainerOptions {
        device: options.compute.device,
        // The last new token is not read.
        shape: Shape { b: 1, t: positions.min(prompt.len() + options.tokens.saturating_sub(1)) },
        threads: options.compute.threads,
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::open(config, &trainer_options)?;
    let loading = Bytes::new("loading", stderr().is_terminal());
    model.fill(&mut trainer, options.seed, &|done, total| {
        loading.moved(done, total);
        Ok(())
    })?;
    let terminal = stdout().is_terminal();
    let mut unprinted = if options.chat { Vec::new() } else { asked };
    let show = |bytes: &mut Vec<u8>, all: bool| {
        // On a terminal, a character is printed once its last byte is there.
        let ready = if terminal && !all { whole_characters(bytes) } else { bytes.len() };
        let text: Vec<u8> = bytes.drain(..ready).collect();
        print_for_reader(&if terminal { printable(&text).into_bytes() } else { text })
    };
    if !show(&mut unprinted, false)? {
        return Ok(());
    }
    let mut decoder = tokenizer.decoder_after(&prompt)?;
    let mut context = prompt.len() - 1;
    continue_text(&mut trainer, &prompt, options.tokens, tokenizer.vocabulary(), &mut sampler, |token| {
        context += 1;
        if tokenizer.is_end(token) {
            return Ok(ControlFlow::Break(()));
        }
        unprinted.extend(decoder.push(token)?);
        Ok(match show(&mut unprinted, false)? {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    })?;
    unprinted.push(b'\n');
    show(&mut unprinted, true)?;
    if prompt.len() <= positions && context > positions {
        message!(
            "warning: prompt and new text have more tokens than the model positions ({positions}): the beginning of \
             the prompt was left out for the last {}",
            several(context - positions, "new token")
        );
    }
    Ok(())
}

/// The place that the prompt is from.
fn name(options: &SampleOptions) -> String {
    match &options.prompt_file {
        Some(file) if file.as_os_str() == "-" => "standard input".to_owned(),
        Some(file) => file.display().to_string(),
        None => "the prompt".to_owned(),
    }
}

/// Largest prompt that is read; tokenized, it takes up to fifteen times as much memory.
const PROMPT_BYTES_MAX: u64 = 1 << 24;

/// The prompt, or the user's message.
fn asked(options: &SampleOptions) -> Result<Vec<u8>> {
    let Some(file) = &options.prompt_file else { return Ok(options.prompt.clone().into_bytes()) };
    let reading = |error: io::Error| Error::reading(file, &error);
    let from: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(stdin().lock()),
        false => Box::new(input::open_stream(file)?),
    };
    let mut bytes = Vec::new();
    from.take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        let message =
            format!("{} is longer than {PROMPT_BYTES_MAX} bytes, the most for a prompt", name(options));
        return Err(Error::argument(message));
    }
    Ok(bytes)
}

/// The number of bytes before a last character that is incomplete.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.len(),
        Err(error) => match error.error_len() {
            None => error.valid_up_to(),
            Some(_) => bytes.len(),
        },
    }
}

/// Text that is safe on a terminal: control and invisible characters, except newline and tab, are
/// escaped; invalid UTF-8 becomes �.
pub fn printable(bytes: &[u8]) -> String {
    escaped(&String::from_utf8_lossy(bytes), "\n\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_left_alone() {
        assert_eq!(printable(b"a\tb\n\x1b[2J\xff\x00"), "a\tb\n\\u{1b}[2J\u{fffd}\\u{0}");
        assert_eq!(printable("é→\u{202e}".as_bytes()), "é→\\u{202e}");
    }

    #[test]
    fn characters_wait_for_their_last_byte() {
        assert_eq!(whole_characters(b"ab"), 2);
        assert_eq!(whole_characters(b"a\xc3"), 1);
        assert_eq!(whole_characters(b"a\xc3\xa9"), 3);
        assert_eq!(whole_characters(b"a\xffb"), 3);
    }
}
