//! What `horizon train` learns from when it is given no data: the sources this binary was built from.
//!
//! They are inside the binary, so the same binary learns from the same text wherever it runs.

use horizon::train::data::Text;
use include_dir::{Dir, include_dir};

static SOURCES: Dir = include_dir!("$CARGO_MANIFEST_DIR/src");

/// One document in so many is held out for validation.
const HELD_OUT: usize = 16;

/// The sources, a document a file sorted by path: what is learned from, and what is held out.
pub fn sources() -> (Text, Text) {
    let mut files = Vec::new();
    let mut folders = vec![&SOURCES];
    while let Some(folder) = folders.pop() {
        files.extend(folder.files().map(|file| (file.path(), file.contents())));
        folders.extend(folder.dirs());
    }
    files.sort();
    let mut text = Text::default();
    files.into_iter().for_each(|(_, contents)| text.push(contents));
    text.hold_out(HELD_OUT)
}
