//! Rows of token ids with masks: padding, packed documents, and the tokens trained on.

use std::ops::Range;

use serde_json::Value;

use super::Row;
use super::fields::{Entry, Fields, bad, integer, shown};
use super::formats::{
    ASSISTANT_MASKS, ATTENTION_MASK, COMPLETION_MASK, CU_SEQLENS, Field, LABELS, LOSS_MASK, POSITION_IDS,
    SEQ_LENGTHS,
};
use crate::base::{Error, IGNORED_TARGET, Result};

/// Reads a row of tokens: one document, or several if a field says where they begin. Padding is
/// dropped at both ends.
pub fn read(fields: &mut Fields, ids: &Field) -> Result<Vec<Row>> {
    let ids = fields.needed(ids)?;
    let count = ids.list()?.len();
    let padding = match per_token(fields, &ATTENTION_MASK, ids)? {
        Some(mask) => Some((mask, numbers(mask, "0 or 1, or the number of a document", bit_or_integer)?)),
        None => None,
    };
    let kept = match &padding {
        Some((entry, mask)) => unpadded(*entry, mask)?,
        None => 0..count,
    };
    let tokens = tokens(ids, &kept)?;
    let mut starts = Starts { kept: kept.clone(), found: None };
    if let Some((entry, mask)) = &padding {
        starts.agree(*entry, numbered(*entry, mask, &kept)?)?;
    }
    if let Some(entry) = per_token(fields, &POSITION_IDS, ids)? {
        starts.agree(entry, restarts(entry, &numbers(entry, "a position", integer)?, &kept)?)?;
    }
    if let Some(entry) = fields.get(&SEQ_LENGTHS)? {
        starts.agree(entry, by_length(entry, &numbers(entry, "a length", integer)?, &kept, count)?)?;
    }
    if let Some(entry) = fields.get(&CU_SEQLENS)? {
        let bounds = numbers(entry, "an offset", integer)?;
        if bounds.first() != Some(&0) {
            return Err(entry.not("a list that begins with 0"));
        }
        let lengths: Vec<i64> = bounds.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        starts.agree(entry, by_length(entry, &lengths, &kept, count)?)?;
    }
    let starts = starts.all();
    let supervised = supervised(fields, ids, &tokens, &kept, &starts)?;
    let ends = starts[1..].iter().copied().chain([tokens.len()]);
    let documents = starts.iter().zip(ends);
    Ok(documents
        .map(|(&start, end)| Row::Tokens(tokens[start..end].to_vec(), supervised[start..end].to_vec()))
        .collect())
}

/// Returns a field with one value per token.
fn per_token<'a>(fields: &mut Fields<'a>, field: &Field, ids: Entry) -> Result<Option<Entry<'a>>> {
    let Some(entry) = fields.get(field)? else { return Ok(None) };
    let (values, count) = (entry.list()?.len(), ids.list()?.len());
    if values != count {
        return Err(bad(format!(
            "`{}` has {values} values, but `{}` has {count}; the counts must be equal",
            entry.name, ids.name
        )));
    }
    Ok(Some(entry))
}

fn tokens(ids: Entry, kept: &Range<usize>) -> Result<Vec<i32>> {
    let token = |at: usize, value: &Value| {
        let id = integer(value).and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0);
        id.ok_or_else(|| not(ids, at, value, "a token id"))
    };
    kept.clone().zip(&ids.list()?[kept.clone()]).map(|(at, value)| token(at, value)).collect()
}

fn not(entry: Entry, at: usize, value: &Value, kind: &str) -> Error {
    bad(format!("`{}`[{at}] is {}; it must be {kind}", entry.name, shown(value)))
}

/// Reads a list of numbers, none negative.
fn numbers(entry: Entry, kind: &str, read: impl Fn(&Value) -> Option<i64>) -> Result<Vec<i64>> {
    let number = |(at, value)| {
        let number = read(value).filter(|number| *number >= 0);
        number.ok_or_else(|| not(entry, at, value, kind))
    };
    entry.list()?.iter().enumerate().map(number).collect()
}

fn bit_or_integer(value: &Value) -> Option<i64> {
    value.as_bool().map(i64::from).or_else(|| integer(value))
}

fn bit(value: &Value) -> Option<i64> {
    bit_or_integer(value).filter(|bit| *bit <= 1)
}

/// Returns the tokens between the padding at both ends.
fn unpadded(entry: Entry, mask: &[i64]) -> Result<Range<usize>> {
    let present = |value: &i64| *value > 0;
    let Some(first) = mask.iter().position(present) else {
        return match mask.len() {
            0 => Ok(0..0),
            _ => Err(bad(format!("`{}` has only zeros: every token is padding", entry.name))),
        };
    };
    let end = mask.iter().rposition(present).map_or(first, |last| last + 1);
    match mask[first..end].iter().position(|value| *value == 0) {
        None => Ok(first..end),
        Some(at) => Err(bad(format!(
            "`{}`[{}] is 0 between ones; only padding at the ends of a row can be left out; to \
             exclude tokens from the loss, give `labels` or `loss_mask`",
            entry.name,
            first + at
        ))),
    }
}

/// Returns the starts of the documents that a mask numbers: 1, 1, 1, 2, 2, ….
fn numbered(entry: Entry, mask: &[i64], kept: &Range<usize>) -> Result<Vec<usize>> {
    let (mut starts, mut before) = (Vec::new(), 0);
    for (at, &number) in kept.clone().zip(&mask[kept.clone()]) {
        if number == before + 1 {
            starts.push(at - kept.start);
        } else if number != before {
            let message = format!(
                "`{}`[{at}] is {number} after {before}; documents are numbered 1, 2, 3, …",
                entry.name
            );
            return Err(bad(message));
        }
        before = number;
    }
    Ok(starts)
}

/// Returns the starts of the documents whose positions restart. Positions count from 0, from 1, or,
/// of a row with padding on the left, from its length.
fn restarts(entry: Entry, positions: &[i64], kept: &Range<usize>) -> Result<Vec<usize>> {
    let Some(&first) = positions[kept.clone()].first() else { return Ok(Vec::new()) };
    let base = i64::from(first == 1 && kept.start != 1);
    if first != base && first != kept.start as i64 {
        let message =
            format!("`{}`[{}] is {first}; the first position must be 0 or 1", entry.name, kept.start);
        return Err(bad(message));
    }
    let (mut starts, mut before) = (vec![0], first);
    for (at, &position) in kept.clone().zip(&positions[kept.clone()]).skip(1) {
        if position == base {
            starts.push(at - kept.start);
        } else if position != before + 1 {
            return Err(bad(format!(
                "`{}`[{at}] is {position} after {before}; positions must count up, or restart at {base} with a document",
                entry.name
            )));
        }
        before = position;
    }
    Ok(starts)
}

/// Returns the starts of documents with these lengths, which make up the row, or its tokens without
/// padding.
fn by_length(entry: Entry, lengths: &[i64], kept: &Range<usize>, count: usize) -> Result<Vec<usize>> {
    let total =
        lengths.iter().try_fold(0_i64, |sum, &length| sum.checked_add(length).filter(|_| length >= 0));
    let mut at = match total.and_then(|total| usize::try_from(total).ok()) {
        Some(total) if total == kept.len() => kept.start,
        Some(total) if total == count => 0,
        _ => return Err(entry.not(&format!("documents that make up the {count} tokens of the row"))),
    };
    let mut starts = Vec::new();
    for &length in lengths.iter().filter(|length| **length > 0) {
        let end = at + length as usize;
        // A document of padding alone is dropped.
        if end > kept.start && at < kept.end {
            starts.push(at.saturating_sub(kept.start));
        }
        at = end;
    }
    Ok(starts)
}

/// Starts of the documents of a row, relative to the first token kept.
struct Starts<'a> {
    kept: Range<usize>,
    found: Option<(Entry<'a>, Vec<usize>)>,
}

impl<'a> Starts<'a> {
    /// Takes the starts from one field. Fields that find several documents must find the same.
    fn agree(&mut self, entry: Entry<'a>, starts: Vec<usize>) -> Result<()> {
        if starts.len() < 2 {
            return Ok(());
        }
        match &self.found {
            Some((other, found)) if *found != starts => {
                let differs = found.iter().zip(&starts).position(|(a, b)| a != b);
                let document = differs.unwrap_or(found.len().min(starts.len()));
                let at = |starts: &[usize]| match starts.get(document) {
                    Some(start) => format!("at token {}", self.kept.start + start),
                    None => "nowhere".to_owned(),
                };
                Err(bad(format!(
                    "`{}` and `{}` disagree: document {document} begins {} and {}",
                    other.name,
                    entry.name,
                    at(found),
                    at(&starts)
                )))
            }
            Some(_) => Ok(()),
            None => {
                self.found = Some((entry, starts));
                Ok(())
            }
        }
    }

    fn all(self) -> Vec<usize> {
        self.found.map_or_else(|| vec![0], |(_, starts)| starts)
    }
}

/// Returns the tokens trained on: those that every mask and `labels` select, as in TRL.
///
/// `labels` that select every token are a copy of the tokens and leave the choice to the masks.
/// Otherwise both must select the same. A document's first token is no target; its value is free.
fn supervised(
    fields: &mut Fields,
    ids: Entry,
    tokens: &[i32],
    kept: &Range<usize>,
    starts: &[usize],
) -> Result<Vec<bool>> {
    let mut masks = Vec::new();
    for field in [&LOSS_MASK, &COMPLETION_MASK, &ASSISTANT_MASKS] {
        if let Some(entry) = per_token(fields, field, ids)? {
            masks.push((entry, numbers(entry, "0 or 1", bit)?));
        }
    }
    let off = |at: usize| masks.iter().find(|(_, mask)| mask[at] == 0);
    let masked: Vec<bool> = kept.clone().map(|at| off(at).is_none()).collect();
    let Some(labels) = per_token(fields, &LABELS, ids)? else { return Ok(masked) };
    let label = |at: usize, value: &Value, token: i32| match integer(value) {
        Some(label) if label == i64::from(IGNORED_TARGET) => Ok(false),
        Some(label) if label == i64::from(token) => Ok(true),
        _ => Err(not(labels, at, value, &format!("the token at that index, {token}, or {IGNORED_TARGET}"))),
    };
    let values = &labels.list()?[kept.clone()];
    let labeled = kept
        .clone()
        .zip(values.iter().zip(tokens))
        .map(|(at, (value, &token))| label(at, value, token))
        .collect::<Result<Vec<bool>>>()?;
    let Some((first_mask, _)) = masks.first() else { return Ok(labeled) };
    let targets = |at: &usize| starts.binary_search(at).is_err();
    if (0..tokens.len()).filter(targets).all(|at| labeled[at]) {
        return Ok(masked.iter().zip(&labeled).map(|(a, b)| *a && *b).collect());
    }
    match (0..tokens.len()).filter(targets).find(|&at| labeled[at] != masked[at]) {
        None => Ok(labeled),
        Some(at) => {
            let row = kept.start + at;
            let mask = off(row).map_or(first_mask, |(entry, _)| entry);
            Err(bad(format!(
                "`labels`[{row}] is {}, but `{}`[{row}] is {}; they select different tokens; give one of them",
                shown(&values[at]),
                mask.name,
                u8::from(masked[at])
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::IGNORED_TARGET as NO;
    use crate::data::warning::Warnings;

    fn read(row: &Value) -> Result<Vec<(Vec<i32>, Vec<u8>)>> {
        let mut warnings = Warnings::default();
        let rows = Row::parse(row.to_string().as_bytes(), &mut warnings)?;
        assert_eq!(warnings, Warnings::default(), "{row}");
        let documents = rows.into_iter().map(|row| match row {
            Row::Tokens(tokens, supervised) => (tokens, supervised.into_iter().map(u8::from).collect()),
            other => panic!("{other:?}"),
        });
        Ok(documents.collect())
    }

    fn is(row: Value, documents: &[(&[i32], &[u8])]) {
        let documents: Vec<_> = documents.iter().map(|(a, b)| (a.to_vec(), b.to_vec())).collect();
        assert_eq!(read(&row).unwrap_or_else(|error| panic!("{row}: {error}")), documents, "{row}");
    }

    #[test]
    fn masks_and_labels_select_the_tokens_trained_on() {
        is(json!({"tokens": [1, 2]}), &[(&[1, 2], &[1, 1])]);
        is(json!({"tokens": []}), &[(&[], &[])]);
        is(json!({"input_ids": [1, 2, 3], "labels": [NO, 2, 3]}), &[(&[1, 2, 3], &[0, 1, 1])]);
        is(json!({"tokens": [1, 2, 3], "loss_mask": [0, true, 1]}), &[(&[1, 2, 3], &[0, 1, 1])]);
        // As pandas writes a column with gaps.
        is(
            json!({"input_ids": [1.0, 2.0], "labels": [-100.0, 2.0], "loss_mask": [0.0, 1.0]}),
            &[(&[1, 2], &[0, 1])],
        );
        // DataCollatorForLanguageModeling of TRL sets the labels of every mask's zeros to −100.
        let ids = json!([40, 41, 42, 43, 44]);
        is(
            json!({"input_ids": ids, "completion_mask": [0, 0, 0, 1, 1]}),
            &[(&[40, 41, 42, 43, 44], &[0, 0, 0, 1, 1])],
        );
        let (completion, assistant) = (json!([0, 0, 1, 1, 1]), json!([0, 1, 1, 0, 1]));
        let masks = json!({"input_ids": ids, "completion_mask": completion, "assistant_masks": assistant, "labels": ids});
        is(masks, &[(&[40, 41, 42, 43, 44], &[0, 0, 1, 0, 1])]);
    }

    /// A tokenizer of transformers pads on either side; its `position_ids` are
    /// `attention_mask.cumsum(-1) - 1`, and 1 (in older releases) or 0 at padding.
    #[test]
    fn padding_is_dropped_on_both_sides() {
        let document: (&[i32], &[u8]) = (&[7, 8, 9], &[1, 1, 1]);
        for (ids, mask, positions) in [
            (json!([7, 8, 9, 0, 0]), json!([1, 1, 1, 0, 0]), json!([0, 1, 2, 1, 1])),
            (json!([0, 0, 7, 8, 9]), json!([0, 0, 1, 1, 1]), json!([1, 1, 0, 1, 2])),
            (json!([0, 0, 7, 8, 9]), json!([false, false, true, true, true]), json!([0, 1, 2, 3, 4])),
            (json!([-1, 7, 8, 9, -1]), json!([0.0, 1.0, 1.0, 1.0, 0.0]), json!([0, 1, 2, 3, 0])),
        ] {
            is(json!({"input_ids": ids, "attention_mask": mask}), &[document]);
            is(json!({"input_ids": ids, "attention_mask": mask, "labels": ids}), &[document]);
            is(json!({"input_ids": ids, "attention_mask": mask, "position_ids": positions}), &[document]);
        }
        let labels = json!({"input_ids": [0, 7, 8], "attention_mask": [0, 1, 1], "labels": [NO, NO, 8]});
        is(labels, &[(&[7, 8], &[0, 1])]);
    }

    #[test]
    fn packed_rows_are_cut_into_their_documents() {
        let documents: [(&[i32], &[u8]); 2] = [(&[1, 2, 3], &[0, 1, 1]), (&[4, 5], &[0, 1])];
        let ids = json!([1, 2, 3, 4, 5]);
        // DataCollatorWithFlattening of transformers 5.24, for [1, 2, 3] and [4, 5].
        let labels = json!([NO, 2, 3, NO, 5]);
        is(json!({"input_ids": ids, "labels": labels, "position_ids": [0, 1, 2, 0, 1]}), &documents);
        is(json!({"input_ids": ids, "labels": labels, "cu_seqlens": [0, 3, 5]}), &documents);
        // pack_dataset of TRL
        is(json!({"input_ids": ids, "labels": labels, "seq_lengths": [3, 2]}), &documents);
        // V2BatchSamplerDataCollatorForSeq2Seq of axolotl, with padding
        let mask = json!([1, 1, 1, 2, 2, 0]);
        let padded = json!({"input_ids": [1, 2, 3, 4, 5, 0], "labels": [NO, 2, 3, NO, 5, NO], "attention_mask": mask,
            "position_ids": [0, 1, 2, 0, 1, 0]});
        is(padded, &documents);
        let lengths = json!({"input_ids": [1, 2, 3, 4, 5, 0], "attention_mask": [1, 1, 1, 1, 1, 0], "seq_lengths": [3, 2, 1],
            "loss_mask": [0, 1, 1, 0, 1, 1]});
        is(lengths, &documents);
        // Positions that count through, and from 1, cut nothing.
        for positions in [json!([0, 1, 2, 3, 4]), json!([1, 2, 3, 4, 5])] {
            is(json!({"input_ids": ids, "position_ids": positions}), &[(&[1, 2, 3, 4, 5], &[1; 5])]);
        }
        let from_one = json!({"input_ids": ids, "position_ids": [1, 2, 3, 1, 2], "labels": ids});
        is(from_one, &[(&[1, 2, 3], &[1, 1, 1]), (&[4, 5], &[1, 1])]);
        // A document's first token is no target.
        let first =
            json!({"input_ids": ids, "seq_lengths": [3, 2], "labels": labels, "loss_mask": [1, 1, 1, 1, 1]});
        is(first, &documents);
    }

    #[test]
    fn errors_name_the_field_the_token_and_its_value() {
        for (row, words) in [
            (json!({"tokens": [1, -2]}), &["`tokens`[1] is -2", "a token id"][..]),
            (json!({"tokens": [1, 4294967296_u64]}), &["`tokens`[1] is 4294967296"]),
            (json!({"tokens": [1.5]}), &["`tokens`[0] is 1.5"]),
            (
                json!({"tokens": [1], "labels": [2]}),
                &["`labels`[0] is 2", "the token at that index, 1, or -100"],
            ),
            (json!({"tokens": [1, 2], "loss_mask": [1]}), &["`loss_mask` has 1 values", "`tokens` has 2"]),
            (json!({"tokens": [1], "loss_mask": [2]}), &["`loss_mask`[0] is 2; it must be 0 or 1"]),
            (json!({"tokens": [1], "attention_mask": [-1]}), &["`attention_mask`[0] is -1"]),
            (json!({"tokens": [1, 2], "attention_mask": [0, 0]}), &["`attention_mask` has only zeros"]),
            (
                json!({"tokens": [1, 2, 3], "attention_mask": [1, 0, 1]}),
                &["`attention_mask`[1] is 0 between", "give `labels` or `loss_mask`"],
            ),
            (json!({"tokens": [1, 2], "attention_mask": [1, 3]}), &["`attention_mask`[1] is 3 after 1"]),
            (json!({"tokens": [1, 2], "attention_mask": [2, 2]}), &["`attention_mask`[0] is 2 after 0"]),
            (json!({"tokens": [1, 2], "position_ids": [5, 6]}), &["`position_ids`[0] is 5"]),
            (
                json!({"tokens": [1, 2], "position_ids": [0, 2]}),
                &["`position_ids`[1] is 2 after 0", "restart at 0"],
            ),
            (json!({"tokens": [1, 2], "seq_lengths": [1, 2]}), &["`seq_lengths` is [1,2]", "the 2 tokens"]),
            (json!({"tokens": [1, 2], "cu_seqlens": [1, 2]}), &["`cu_seqlens` is [1,2]", "begins with 0"]),
            (json!({"tokens": [1, 2], "cu_seqlens": [0, 3, 2]}), &["`cu_seqlens` is [0,3,2]"]),
            (
                json!({"tokens": [1, 2, 3], "seq_lengths": [1, 2], "position_ids": [0, 1, 0]}),
                &["`position_ids` and `seq_lengths` disagree: document 1 begins at token 2 and at token 1"],
            ),
            (
                json!({"tokens": [1, 2, 3], "labels": [NO, NO, 3], "completion_mask": [0, 1, 1]}),
                &["`labels`[1] is -100, but `completion_mask`[1] is 1"],
            ),
            (
                json!({"tokens": [1, 2, 3], "labels": [NO, NO, 3], "loss_mask": [1, 0, 1], "assistant_masks": [1, 1, 0]}),
                &["`labels`[2] is 3, but `assistant_masks`[2] is 0"],
            ),
        ] {
            let error = read(&row).expect_err(&row.to_string());
            for word in words {
                assert!(error.message().contains(word), "{row}: no {word:?} in {error}");
            }
        }
    }
}
