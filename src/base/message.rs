//! Messages for users, with a form for each front end.

use std::borrow::Cow;
use std::fmt;

use crate::base::format::escaped;

/// The front end whose user reads a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// The command `horizon`.
    Command,
    /// C programs.
    C,
    /// Rust programs.
    Rust,
}

/// Marks in a message, before, between and after the forms of a phrase: noncharacters, which
/// Unicode reserves for use inside a program.
const OPEN: char = '\u{fdd0}';
const NEXT: char = '\u{fdd1}';
const CLOSE: char = '\u{fdd2}';
const MARKS: [char; 3] = [OPEN, NEXT, CLOSE];

/// Longest message: a value of a file may be a megabyte long.
const BYTES_MAX: usize = 4000;

/// Returns a phrase for a [`Message`], of which each front end shows its own form. Forms may
/// contain phrases.
pub fn phrase(command: impl fmt::Display, c: impl fmt::Display, rust: impl fmt::Display) -> String {
    let form = |text: String, front| rendered(&text, front).into_owned();
    let command = form(command.to_string(), Front::Command);
    let (c, rust) = (form(c.to_string(), Front::C), form(rust.to_string(), Front::Rust));
    format!("{OPEN}{command}{NEXT}{c}{NEXT}{rust}{CLOSE}")
}

/// Returns a text with each phrase replaced by its form for a front end.
fn rendered(text: &str, front: Front) -> Cow<'_, str> {
    if !text.contains(MARKS) {
        return Cow::Borrowed(text);
    }
    let mut pieces = text.split(OPEN);
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (forms, rest) = piece.split_once(CLOSE).unwrap_or(("", piece));
        shown += forms.split(NEXT).nth(front as usize).unwrap_or_default();
        shown += rest;
    }
    // File names can have marks, too.
    Cow::Owned(shown.replace(MARKS, ""))
}

/// A text for users. It can contain [`phrase`]s and [`Name`](crate::base::Name)s, so it is shown
/// only as [rendered](Message::render) for a front end; `Display` and `Debug` are for Rust.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    text: String,
    /// The text for Rust, if it differs.
    rust: Option<String>,
}

impl Message {
    /// Returns the text for the users of a front end.
    pub fn render(&self, front: Front) -> Cow<'_, str> {
        rendered(&self.text, front)
    }

    /// Returns the text for the users of Rust.
    pub fn as_str(&self) -> &str {
        self.rust.as_deref().unwrap_or(&self.text)
    }

    /// Returns the message that `change` makes of this one's text, with its phrases.
    pub fn map(self, change: impl FnOnce(String) -> String) -> Message {
        change(self.text).into()
    }
}

/// Returns a text of at most [`BYTES_MAX`] bytes: a longer one has an ellipsis for its middle, which
/// divides no phrase.
fn shortened(text: String) -> String {
    if text.len() <= BYTES_MAX {
        return text;
    }
    // Of four bytes in a row one begins a character.
    let boundary = |from: usize| (from..from + 4).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let head = &text[..boundary(BYTES_MAX / 2)];
    let tail = &text[boundary(text.len() - BYTES_MAX / 4)..];
    let head = match (head.rfind(OPEN), head.rfind(CLOSE)) {
        (Some(open), close) if close.is_none_or(|close| close < open) => &head[..open],
        _ => head,
    };
    let tail = match (tail.find(OPEN), tail.split_once(CLOSE)) {
        (open, Some((inside, rest))) if open.is_none_or(|open| open > inside.len()) => rest,
        _ => tail,
    };
    format!("{head} … {tail}")
}

/// Escapes control and invisible characters: names of files and texts of others must neither move
/// the cursor of a terminal nor look like another message, nor fill the screen.
impl From<String> for Message {
    fn from(text: String) -> Self {
        let text = shortened(escaped(&text, ""));
        let rust = text.contains(MARKS).then(|| rendered(&text, Front::Rust).into_owned());
        Message { text, rust }
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(message: &Message) -> [String; 3] {
        [Front::Command, Front::C, Front::Rust].map(|front| message.render(front).into_owned())
    }

    #[test]
    fn each_front_end_shows_its_own_form() {
        let message = Message::from(format!("use {} or {}.", phrase("a", "b", "c"), phrase("d", "e", "")));
        assert_eq!(forms(&message), ["use a or d.", "use b or e.", "use c or ."]);
        assert_eq!(format!("{message} {message:?}"), "use c or . \"use c or .\"");
        let nested = phrase(phrase(1, 2, 3), format!("<{}>", phrase(4, 5, 6)), "7");
        assert_eq!(forms(&nested.into()), ["1", "<5>", "7"]);
    }

    #[test]
    fn control_characters_are_escaped() {
        let message = Message::from(format!("{}: \x1b[2J\nerror: \u{202e}", phrase("a", "b\r", "c")));
        let shown = |name: &str| format!("{name}: \\u{{1b}}[2J\\nerror: \\u{{202e}}");
        assert_eq!(forms(&message), [shown("a"), shown("b\\r"), shown("c")]);
        assert_eq!(message.clone().map(|text| text), message);
    }

    #[test]
    fn a_long_message_has_an_ellipsis_for_its_middle() {
        let long = |around: &str| {
            let text = format!("begin {around}{}{around} end", "é".repeat(1 << 20));
            let message = Message::from(text);
            assert!(message.as_str().len() <= BYTES_MAX && message.as_str().contains("é … é"));
            assert_eq!(message.clone().map(|text| text), message);
            message.as_str().to_owned()
        };
        assert!(long("").starts_with("begin é") && long("").ends_with("é end"));
        assert!(long(&phrase("a", "b", "c")).starts_with("begin cé"));
        // Those that the ellipsis would divide are left out.
        let divided = phrase("a".repeat(9), "b".repeat(9000), "c");
        assert_eq!(Message::from(format!("begin {divided} end")).as_str(), "begin  …  end");
    }

    #[test]
    fn marks_in_names_of_files_are_not_shown() {
        for name in ["a\u{fdd0}b", "a\u{fdd1}\u{fdd2}b", "a\u{fdd2}b\u{fdd0}", "ab\u{fdd0}\u{fdd1}"] {
            assert_eq!(forms(&name.into()), ["ab"; 3]);
        }
    }
}
