//! What `horizon train` learns from when it is given no data: the sources this binary was built from.
//!
//! They are inside the binary, so the same binary learns from the same text wherever it runs.

use horizon::base::Result;
use horizon::data::{Documents, Encoder};
use include_dir::{Dir, include_dir};

static SOURCES: Dir = include_dir!("$CARGO_MANIFEST_DIR/src");

/// One document in so many is held out for validation.
const HELD_OUT: usize = 16;

/// The sources, a document a file sorted by path: what is learned from, and what is held out.
pub fn sources() -> Result<(Documents, Documents)> {
    let mut files = Vec::new();
    let mut folders = vec![&SOURCES];
    while let Some(folder) = folders.pop() {
        files.extend(folder.files().map(|file| (file.path(), file.contents())));
        folders.extend(folder.dirs());
    }
    files.sort();
    let encoder = Encoder::bytes();
    let mut documents = Documents::default();
    for (_, contents) in files {
        documents.push(&encoder.document(contents)?);
    }
    Ok(documents.hold_out(HELD_OUT))
}
