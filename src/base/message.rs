//! Messages for users, with a form for each front end.

use std::borrow::Cow;
use std::fmt;

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

/// Returns a phrase for a [`Message`], of which each front end shows its own form. Forms may
/// contain phrases.
pub fn phrase(command: impl fmt::Display, c: impl fmt::Display, rust: impl fmt::Display) -> String {
    let form = |text: String, front| Message(text).render(front).into_owned();
    let command = form(command.to_string(), Front::Command);
    let (c, rust) = (form(c.to_string(), Front::C), form(rust.to_string(), Front::Rust));
    format!("{OPEN}{command}{NEXT}{c}{NEXT}{rust}{CLOSE}")
}

/// A text for users. It can contain [`phrase`]s and [`Name`](crate::base::Name)s, so it is shown
/// only as [rendered](Message::render) for a front end; `Display` and `Debug` are for Rust.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(String);

impl Message {
    /// Returns the text for the users of a front end.
    pub fn render(&self, front: Front) -> Cow<'_, str> {
        if !self.0.contains(MARKS) {
            return Cow::Borrowed(&self.0);
        }
        let mut pieces = self.0.split(OPEN);
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (forms, rest) = piece.split_once(CLOSE).unwrap_or(("", piece));
            text += forms.split(NEXT).nth(front as usize).unwrap_or_default();
            text += rest;
        }
        // File names can have marks, too.
        Cow::Owned(text.replace(MARKS, ""))
    }

    /// Returns the message that `change` makes of this one's text, with its phrases.
    pub fn map(self, change: impl FnOnce(String) -> String) -> Message {
        Message(change(self.0))
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Message(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Message(text.to_owned())
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Front::Rust))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.render(Front::Rust), f)
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
    fn marks_in_names_of_files_are_not_shown() {
        for name in ["a\u{fdd0}b", "a\u{fdd1}\u{fdd2}b", "a\u{fdd2}b\u{fdd0}", "ab\u{fdd0}\u{fdd1}"] {
            assert_eq!(forms(&name.into()), ["ab"; 3]);
        }
    }
}
