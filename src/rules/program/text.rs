//! The functions on texts. Each gives the text back as it is where there is nothing to change, which is the rule: most names
//! are plain letters already.

use super::item::Item;
use std::borrow::Cow;

type Text<'a> = Cow<'a, str>;

pub fn lower(text: Text<'_>) -> Text<'_> {
    if !text.is_ascii() {
        return Cow::Owned(text.to_lowercase());
    }
    match text.bytes().any(|b| b.is_ascii_uppercase()) {
        true => lower_ascii(text),
        false => text,
    }
}

pub fn upper(text: Text<'_>) -> Text<'_> {
    if !text.is_ascii() {
        return Cow::Owned(text.to_uppercase());
    }
    match text.bytes().any(|b| b.is_ascii_lowercase()) {
        true => upper_ascii(text),
        false => text,
    }
}

pub fn lower_ascii(text: Text<'_>) -> Text<'_> {
    let mut text = text.into_owned();
    text.make_ascii_lowercase();
    Cow::Owned(text)
}

pub fn upper_ascii(text: Text<'_>) -> Text<'_> {
    let mut text = text.into_owned();
    text.make_ascii_uppercase();
    Cow::Owned(text)
}

pub fn trim(text: Text<'_>) -> Text<'_> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) if text.trim().len() == text.len() => Cow::Owned(text),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

pub fn ascii(text: Text<'_>) -> Text<'_> {
    match text.is_ascii() {
        true => trim(text),
        false => trim(Cow::Owned(deunicode::deunicode_with_tofu(&text, ""))),
    }
}

pub fn replace<'a>(text: Text<'a>, from: &str, to: &str) -> Text<'a> {
    match text.contains(from) {
        true => Cow::Owned(text.replace(from, to)),
        false => text,
    }
}

/// The characters from `from` up to `to`, which ends where the text ends.
pub fn part(text: Text<'_>, from: usize, to: usize) -> Text<'_> {
    let start = byte_of(&text, from);
    let end = byte_of(&text, to).max(start);
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[start..end]),
        Cow::Owned(mut text) => {
            text.truncate(end);
            text.drain(..start);
            Cow::Owned(text)
        }
    }
}

/// Where a character begins; the text's end for those past it.
fn byte_of(text: &str, character: usize) -> usize {
    if text.is_ascii() {
        return character.min(text.len());
    }
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

pub fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// The character at which `wanted` begins for the first time, or -1.
pub fn first_index(text: &str, wanted: &str) -> i64 {
    text.find(wanted).map_or(-1, |at| length(&text[..at]) as i64)
}

pub fn last_index(text: &str, wanted: &str) -> i64 {
    text.rfind(wanted).map_or(-1, |at| length(&text[..at]) as i64)
}

/// An empty separator splits between the characters.
pub fn split<'a>(text: Text<'a>, separator: &str) -> Vec<Item<'a>> {
    fn parts<'t>(text: &'t str, separator: &str) -> Vec<&'t str> {
        match separator.is_empty() {
            true => text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect(),
            false => text.split(separator).collect(),
        }
    }
    match text {
        Cow::Borrowed(text) => parts(text, separator).into_iter().map(|part| Item::Text(Cow::Borrowed(part))).collect(),
        Cow::Owned(text) => {
            parts(&text, separator).into_iter().map(|part| Item::Text(Cow::Owned(part.to_owned()))).collect()
        }
    }
}
