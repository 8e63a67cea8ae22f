//! The side of the worker process.

use std::io::{self, BufReader, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{PIPE_BYTES, Request, Sources, frame, parsed, read_length};
use crate::base::{Error, Result};
use crate::data::chat::ChatTemplate;
use crate::data::warning::Warnings;

/// Answers requests until `input` ends. `timed` is called with the bytes of a request before it is
/// worked on, and with `None` once it is answered.
pub fn serve(input: impl Read, output: &mut impl Write, timed: &dyn Fn(Option<u64>)) -> Result<()> {
    let failed = |error| Error::io("the pipe of a chat worker", &error);
    let mut input = BufReader::with_capacity(PIPE_BYTES, input);
    let Some(sources) = receive::<Sources>(&mut input, timed).map_err(failed)? else { return Ok(()) };
    let opened = ChatTemplate::of(sources);
    timed(None);
    let mut send = |answers: &[u8]| output.write_all(answers).and_then(|()| output.flush()).map_err(failed);
    let template = match opened {
        Ok(template) => template,
        Err(error) => return send(&answer::<()>(Err(error))),
    };
    send(&answer(Ok(())))?;
    let mut answers = Vec::new();
    while let Some(request) = receive::<Request>(&mut input, timed).map_err(failed)? {
        answers.extend(match request {
            Request::Render(conversation) => {
                let mut warnings = Warnings::default();
                let rendered = template.render(&conversation, &mut warnings);
                answer(rendered.map(|rendered| (rendered, warnings)))
            }
            Request::Prompt(messages) => answer(template.prompt(&messages)),
        });
        timed(None);
        // Without a request that has come already, the other side may wait for these answers.
        if input.buffer().is_empty() || answers.len() >= PIPE_BYTES {
            send(&answers)?;
            answers.clear();
        }
    }
    Ok(())
}

/// Reads a frame; `None` at the end.
fn receive<T: DeserializeOwned>(input: &mut impl Read, timed: &dyn Fn(Option<u64>)) -> io::Result<Option<T>> {
    let Some(length) = read_length(input)? else { return Ok(None) };
    timed(Some(length));
    let mut bytes = vec![0; length as usize];
    input.read_exact(&mut bytes)?;
    Ok(Some(parsed(&bytes)?))
}

fn answer<T: Serialize>(result: Result<T>) -> Vec<u8> {
    frame(&result.map_err(|error| error.message().to_owned()))
}
