//! The table of row formats and their fields. A row is read through it ([`Fields`]), so a field
//! that it does not list cannot be read; a test reads every field that it lists.
//!
//! [`Fields`]: super::fields::Fields

use super::fields::Fields;
use super::{Row, messages, tokens};
use crate::base::Result;

/// Values that a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A list or an object, or the JSON text of one.
    Json,
    /// A text, or a list of messages, which may be JSON text.
    Messages,
}

/// A field of a row or a message.
pub struct Field {
    /// Its name and other spellings.
    pub names: &'static [&'static str],
    pub kind: Kind,
    /// Description for `formats.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test writes the documentation"))]
    pub meaning: &'static str,
}

const fn field(names: &'static [&'static str], meaning: &'static str) -> Field {
    Field { names, kind: Kind::Text, meaning }
}

const fn list(names: &'static [&'static str], meaning: &'static str) -> Field {
    Field { names, kind: Kind::Json, meaning }
}

impl Field {
    const fn or_messages(self) -> Field {
        Field { kind: Kind::Messages, ..self }
    }
}

/// Fields that together make a row.
pub struct Format {
    /// The fields that select the format: all are present.
    pub needs: &'static [&'static Field],
    /// Optional fields.
    pub reads: &'static [&'static Field],
    /// The supervised tokens, for `formats.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test writes the documentation"))]
    pub trained: &'static str,
    pub read: fn(&mut Fields) -> Result<Vec<Row>>,
}

pub static MESSAGES: Field = list(&["messages"], "list of messages");
pub static CONVERSATIONS: Field = list(&["conversations", "conversation"], "list of messages");
pub static SYSTEM: Field = field(
    &["system", "system_prompt"],
    "text of the first message, of role system, or a list of parts, as `content`; once if a system message says the \
     same",
);
pub static TOOLS: Field =
    list(&["tools"], "variable of the template: list of tools, or one; each may be JSON text");
pub static FUNCTIONS: Field =
    list(&["functions"], "the functions of `tools`, as in OpenAI's older API; each may be JSON text");
pub static DOCUMENTS: Field = list(&["documents"], "variable of the template: list of objects");
pub static KWARGS: Field = list(
    &["chat_template_kwargs"],
    "object with more variables of the template; `tools` and `documents` are as those of the row",
);
pub static PROMPT: Field = field(&["prompt"], "text, or a list of messages; not trained on").or_messages();
pub static COMPLETION: Field =
    field(&["completion"], "text, or a list of messages, as `prompt`").or_messages();
pub static INSTRUCTION: Field = field(&["instruction"], "text of the last question");
pub static INPUT: Field = field(&["input"], "text, appended to the instruction behind an empty line");
pub static CONTEXT: Field = field(&["context"], "text, appended to the instruction behind an empty line");
pub static OUTPUT: Field = field(&["output"], "text of the answer");
pub static RESPONSE: Field = field(&["response"], "text of the answer");
pub static HISTORY: Field = list(&["history"], "list of earlier turns: pairs of question and answer");
pub static TOKENS: Field = list(&["tokens"], "list of token ids");
pub static INPUT_IDS: Field = list(&["input_ids"], "list of token ids");
pub static LABELS: Field =
    list(&["labels"], "per token: the token itself (not shifted), or −100 if it is not trained on");
pub static LOSS_MASK: Field = list(&["loss_mask"], "per token: 1 if it is trained on, 0 if not");
pub static COMPLETION_MASK: Field = list(&["completion_mask"], "as `loss_mask`; all masks must be 1");
pub static ASSISTANT_MASKS: Field = list(&["assistant_masks"], "as `loss_mask`; all masks must be 1");
pub static ATTENTION_MASK: Field = list(
    &["attention_mask"],
    "per token: 0 for padding at the ends, which is dropped; else 1, or the document's number from 1",
);
pub static POSITION_IDS: Field =
    list(&["position_ids"], "per token: its position; a restart begins a document");
pub static SEQ_LENGTHS: Field = list(&["seq_lengths"], "lengths of the documents in the row");
pub static CU_SEQLENS: Field = list(&["cu_seqlens"], "starts of the documents in the row, and its end");
pub static TEXT: Field = field(&["text"], "text");

const CHAT: &[&Field] = &[&SYSTEM, &TOOLS, &FUNCTIONS, &DOCUMENTS, &KWARGS];
const PER_TOKEN: &[&Field] = &[
    &LABELS,
    &LOSS_MASK,
    &COMPLETION_MASK,
    &ASSISTANT_MASKS,
    &ATTENTION_MASK,
    &POSITION_IDS,
    &SEQ_LENGTHS,
    &CU_SEQLENS,
];

/// The formats. A row has the first whose fields are present, lists and some text with content.
pub static FORMATS: [Format; 8] = [
    Format {
        needs: &[&MESSAGES],
        reads: CHAT,
        trained: "the assistant's turns",
        read: |fields| messages::chat(fields, &MESSAGES),
    },
    Format {
        needs: &[&CONVERSATIONS],
        reads: CHAT,
        trained: "the assistant's turns",
        read: |fields| messages::chat(fields, &CONVERSATIONS),
    },
    Format {
        needs: &[&PROMPT, &COMPLETION],
        reads: CHAT,
        trained: "a text: the completion and the EOS token; messages: the assistant's turns of the completion",
        read: messages::pair,
    },
    Format {
        needs: &[&INSTRUCTION, &OUTPUT],
        reads: &[&INPUT, &SYSTEM, &HISTORY],
        trained: "the answers",
        read: |fields| messages::instruction(fields, &INPUT, &OUTPUT),
    },
    Format {
        needs: &[&INSTRUCTION, &RESPONSE],
        reads: &[&CONTEXT, &SYSTEM, &HISTORY],
        trained: "the answers",
        read: |fields| messages::instruction(fields, &CONTEXT, &RESPONSE),
    },
    Format {
        needs: &[&TOKENS],
        reads: PER_TOKEN,
        trained: "every token, or those selected",
        read: |fields| tokens::read(fields, &TOKENS),
    },
    Format {
        needs: &[&INPUT_IDS],
        reads: PER_TOKEN,
        trained: "every token, or those selected",
        read: |fields| tokens::read(fields, &INPUT_IDS),
    },
    Format { needs: &[&TEXT], reads: &[], trained: "all of it", read: super::text },
];

pub static ROLE: Field = field(&["role", "from"], "the speaker, see below");
pub static CONTENT: Field = field(
    &["content", "value"],
    "text, or a list of parts of type text; null is empty text, and absent if there are calls",
);
pub static REASONING: Field = field(
    &["reasoning_content", "thinking", "reasoning"],
    "text of the reasoning; the template gets it as `reasoning_content` and `thinking`",
);
pub static TOOL_CALLS: Field = field(
    &["tool_calls"],
    "list of calls, or JSON text; `arguments` that are JSON text are decoded; null members are left out",
);
pub static FUNCTION_CALL: Field = field(
    &["function_call"],
    "one call, as in OpenAI's older API; becomes `tool_calls`; refused if there are others",
);
pub static TRAINED: Field = field(
    &["weight", "train", "training", "trainable", "loss", "loss_mask"],
    "0 or false, also as text: this turn of the assistant is not trained on",
);
pub static SPANS: Field =
    field(&["train_detail", "training_detail"], "refused: parts of a message cannot be selected");
pub static MASKED: Field = field(&["masked"], "1 or true: this turn of the assistant is not trained on");

/// The fields of a message that have a meaning of their own. The template gets all others.
#[cfg(test)]
pub static MESSAGE: [&Field; 8] =
    [&ROLE, &CONTENT, &REASONING, &TOOL_CALLS, &FUNCTION_CALL, &TRAINED, &MASKED, &SPANS];

/// Roles, and the names of speakers that become them, in any case of letters.
pub static ROLES: [(&str, &[&str]); 5] = [
    ("user", &["user", "human"]),
    ("assistant", &["assistant", "gpt", "ai", "model", "chatgpt", "bot", "function_call"]),
    ("tool", &["tool", "function", "function_response"]),
    ("system", &["system"]),
    ("developer", &["developer"]),
];

/// A speaker of role tool, if it is the value of `from`.
pub const OBSERVATION: &str = "observation";

/// Fields of public datasets that cannot change the training: identity, origin, time, kind and size
/// of a row. Sorted.
pub static IRRELEVANT: &[&str] = &[
    "Unnamed: 0",
    "__index_level_0__",
    "_id",
    "added",
    "author",
    "authors",
    "categories",
    "category",
    "char_count",
    "chat_id",
    "commit",
    "config",
    "conversation_hash",
    "conversation_id",
    "country",
    "created",
    "created_at",
    "created_utc",
    "data_source",
    "dataset",
    "dataset_name",
    "date",
    "datetime",
    "difficulty",
    "doc_id",
    "document_id",
    "domain",
    "dump",
    "example_id",
    "extra_info",
    "file_name",
    "file_path",
    "filename",
    "full_topic",
    "generator",
    "guid",
    "hash",
    "id",
    "idx",
    "index",
    "info",
    "int_score",
    "lang",
    "language",
    "language_score",
    "length",
    "licence",
    "license",
    "license_type",
    "link",
    "locale",
    "md5",
    "meta",
    "metadata",
    "model",
    "model_name",
    "n_tokens",
    "num_bytes",
    "num_tokens",
    "num_turns",
    "offset_mapping",
    "origin",
    "overflow_to_sample_mapping",
    "parallel_tool_calls",
    "path",
    "prompt_id",
    "question_id",
    "repo",
    "repo_name",
    "row_id",
    "sample_id",
    "score",
    "sha",
    "sha256",
    "shard",
    "size",
    "skip_prompt_formatting",
    "source",
    "source_dataset",
    "sources",
    "special_tokens_mask",
    "split",
    "subset",
    "tags",
    "task",
    "task_id",
    "task_name",
    "task_type",
    "time",
    "timestamp",
    "title",
    "token_count",
    "token_type_ids",
    "topic",
    "topics",
    "uid",
    "updated_at",
    "uri",
    "url",
    "urls",
    "uuid",
    "warc_filename",
    "warc_record_id",
    "word_count",
];

/// Pairs of fields with which a row is a question and its answer, but perhaps not as a chat.
pub static QUESTIONS: [(&str, &str); 10] = [
    ("question", "answer"),
    ("question", "response"),
    ("question", "output"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
    ("inputs", "targets"),
];

/// Returns true if a field cannot change the training.
pub fn is_irrelevant(field: &str) -> bool {
    IRRELEVANT.binary_search(&field).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    const ACCEPT: &str = "HZ_ACCEPT_FORMATS=1 cargo test --release --lib formats";

    fn names(fields: &[&Field]) -> String {
        let quoted = |field: &&Field| format!("`{}`", field.names.join("` or `"));
        fields.iter().map(quoted).collect::<Vec<_>>().join(", ")
    }

    fn described<'a>(fields: impl IntoIterator<Item = &'a Field>) -> String {
        let mut table = String::from("| field | meaning |\n|---|---|\n");
        let mut known: Vec<&str> = Vec::new();
        for field in fields {
            if !known.contains(&field.names[0]) {
                known.push(field.names[0]);
                writeln!(table, "| {} | {} |", names(&[field]), field.meaning).unwrap();
            }
        }
        table
    }

    fn document() -> String {
        let mut text = format!(
            "<!-- Made from src/data/rows/formats.rs by {ACCEPT} -->\n\n\
             The format of a row is the first of these whose fields are present and not empty: lists have elements, and not\n\
             all texts are empty. A field with the value null counts as absent. Lists and objects may be JSON text, as in\n\
             CSV; empty text and `null` are absent then. A `prompt` or `completion` is read so if it is a list of messages.\n\n\
             | fields | optional fields | trained on |\n|---|---|---|\n"
        );
        for Format { needs, reads, trained, .. } in &FORMATS {
            writeln!(text, "| {} | {} | {trained} |", names(needs), names(reads)).unwrap();
        }
        text += "\nThe optional fields of `prompt` and `completion` hold for messages alone; with texts they are reported. In a\n\
                 row with `messages`, `prompt` is not reported if it is the first question; nor is `text` in a row with\n\
                 `instruction` if it contains the instruction and the answer. A row in which nothing is trained on is counted.\n";
        let fields = FORMATS.iter().flat_map(|format| format.needs.iter().chain(format.reads)).copied();
        text += "\n## Fields of a row\n\n";
        text += &described(fields);
        text += "\n## Fields of a message\n\nThe chat template gets the other fields unchanged.\n\n";
        text += &described(MESSAGE);
        text += "\nOf several names for one field, those with a value must have the same. An object whose members are all null,\n\
                 as Parquet has it, is absent.\n\n\
                 Roles by the names of `role` and `from`, in any case of letters; other values of `role` stay as they are:\n\n";
        for (role, names) in ROLES {
            let also =
                if role == "tool" { format!("; in `from` also `{OBSERVATION}`") } else { String::new() };
            writeln!(text, "- {role}: `{}`{also}", names.join("`, `")).unwrap();
        }
        text += "\n## Fields without a meaning for training\n\nEvery other field that is not empty is reported.\n\n";
        let mut width = 0;
        for field in IRRELEVANT {
            let item = format!("`{field}`{}", if Some(field) == IRRELEVANT.last() { "." } else { "," });
            let space = if width + item.len() < 118 { " " } else { "\n" };
            width = if space == " " { width + 1 } else { 0 } + item.len();
            text += if text.ends_with("\n\n") { "" } else { space };
            text += &item;
        }
        text + "\n"
    }

    #[test]
    fn the_documentation_has_the_formats_and_fields_of_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data/formats.md");
        if std::env::var_os("HZ_ACCEPT_FORMATS").is_some_and(|value| value == "1") {
            std::fs::write(&path, document()).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap();
        assert!(found == document(), "src/data/formats.md is not as the table; run\n{ACCEPT}");
        assert!(IRRELEVANT.is_sorted());
    }
}
