//! The side of the worker process.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Request, Sources, frame, parsed, read_length};
use crate::base::{Error, Result};
use crate::data::chat::ChatTemplate;
use crate::data::warning::Warnings;

/// Answers requests until `input` ends. `timed` is called with the bytes of a request before it is
/// worked on, and with `None` once it is answered.
pub fn serve(input: &mut impl Read, output: &mut impl Write, timed: &dyn Fn(Option<u64>)) -> Result<()> {
    let failed = |error| Error::io("the pipe of a chat worker", &error);
    let Some(sources) = receive::<Sources>(input, timed).map_err(failed)? else { return Ok(()) };
    let opened = ChatTemplate::of(sources);
    let mut send = |answer: &[u8]| {
        timed(None);
        output.write_all(answer).and_then(|()| output.flush()).map_err(failed)
    };
    let template = match opened {
        Ok(template) => template,
        Err(error) => return send(&answer::<()>(Err(error))),
    };
    send(&answer(Ok(())))?;
    while let Some(request) = receive::<Request>(input, timed).map_err(failed)? {
        send(&match request {
            Request::Render(conversation) => {
                let mut warnings = Warnings::default();
                let rendered = template.render(&conversation, &mut warnings);
                answer(rendered.map(|rendered| (rendered, warnings)))
            }
            Request::Prompt(messages) => answer(template.prompt(&messages)),
        })?;
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
