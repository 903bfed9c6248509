//! Reads lists and tables within a table.

use toml::Spanned;
use toml::de::DeValue;

use super::{Section, kind};
use crate::registry::notes::{At, without_index};
use crate::registry::problem::quote;

/// An entry of a list that may contain names and tables.
#[derive(Debug, Clone)]
pub(in crate::registry) enum NameOr<T> {
    Name(At<String>),
    Table(T),
}

impl<'a> Section<'a> {
    pub(crate) fn texts(&self, key: &'static str, example: &str) -> Option<At<Vec<At<String>>>> {
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.mismatch(key, "a list of strings", value, format_args!("[\"{example}\"]"));
            return None;
        };
        let mut list = Vec::with_capacity(array.len());
        for item in array.iter() {
            match item.get_ref() {
                DeValue::String(text) => list.push(At { value: text.to_string(), span: item.span() }),
                other => self.notes.add(
                    Some(item.span()),
                    format!("`{key}` is a list of strings, this is {}", kind(other)),
                    format!("for example: {key} = [\"{example}\"]"),
                ),
            }
        }
        Some(At { value: list, span: value.span() })
    }

    /// A list of words, each at most once. `wrong` ends the message about a word that is not allowed.
    pub(crate) fn choices<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
        wrong: &str,
    ) -> Option<At<Vec<At<T>>>> {
        let At { value: texts, span } = self.texts(key, words.first().map_or("", |(word, _)| word))?;
        let mut value = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if texts.iter().take(index).any(|other| other.value == text.value) {
                self.notes.wrong(
                    text,
                    format!("`{}` appears twice in `{key}`", quote(&text.value)),
                    "leave one",
                );
                continue;
            }
            value.extend(self.word(text.clone(), words, |text| format!("`{text}` in `{key}` {wrong}")));
        }
        Some(At { value, span })
    }

    /// A list whose entries are names or tables.
    pub(crate) fn names<T>(
        &self,
        key: &'static str,
        example: &str,
        read: impl Fn(&Section<'a>) -> T,
    ) -> Vec<NameOr<T>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.mismatch(key, "a list of strings", value, format_args!("[\"{example}\"]"));
            return Vec::new();
        };
        let mut list = Vec::with_capacity(array.len());
        for (index, item) in array.iter().enumerate() {
            match item.get_ref() {
                DeValue::String(text) => {
                    list.push(NameOr::Name(At { value: text.to_string(), span: item.span() }));
                }
                DeValue::Table(table) => {
                    let path = format!("{}[{index}]", self.path(key));
                    let read = Section::scope(self.notes, Some(table), path, Some(item.span()), &read);
                    list.push(NameOr::Table(read));
                }
                other => self.notes.add(
                    Some(item.span()),
                    format!("`{key}` is a list of strings and tables, this is {}", kind(other)),
                    format!("for example: {key} = [\"{example}\"]"),
                ),
            }
        }
        list
    }

    /// A table with free names as keys and strings as values.
    pub(crate) fn variables(&self, key: &'static str, example: &str) -> Vec<(At<String>, String)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            self.mismatch(key, "a table of strings", value, format_args!("{{ {example} = \"1\" }}"));
            return Vec::new();
        };
        let mut pairs = Vec::with_capacity(table.len());
        for (name, value) in table {
            match value.get_ref() {
                DeValue::String(text) => {
                    let name = At { value: name.get_ref().to_string(), span: name.span() };
                    pairs.push((name, text.to_string()));
                }
                other => self.notes.add(
                    Some(value.span()),
                    format!(
                        "`{key}` is a table of strings, and `{}` is {}",
                        quote(name.get_ref()),
                        kind(other)
                    ),
                    format!("write it in quotes: {example} = \"1\""),
                ),
            }
        }
        pairs
    }

    /// A table within this one; read even if it is absent, for its defaults.
    pub(crate) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Section<'a>) -> T) -> T {
        let value = self.get(key);
        let table = value.and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            DeValue::Array(_) => {
                self.notes.add(
                    Some(value.span()),
                    format!("`{key}` must be one table, not a list"),
                    format!("write [{}]", without_index(&self.path(key))),
                );
                None
            }
            _ => {
                self.mismatch(key, "a table", value, "{ … }");
                None
            }
        });
        Section::scope(self.notes, table, self.path(key), value.map(Spanned::span), read)
    }

    pub(crate) fn sections<T>(&self, key: &'static str, read: impl Fn(&Section<'a>) -> T) -> Vec<T> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            let written = self.path(key);
            self.notes.add(
                Some(value.span()),
                format!("`{key}` must be a list of tables, not {}", kind(value.get_ref())),
                if self.path.is_empty() {
                    format!("write [[{written}]] for each")
                } else {
                    format!("write {key} = [{{ … }}]")
                },
            );
            return Vec::new();
        };
        let mut list = Vec::with_capacity(array.len());
        for (index, item) in array.iter().enumerate() {
            let path = format!("{}[{index}]", self.path(key));
            let DeValue::Table(table) = item.get_ref() else {
                self.notes.add(
                    Some(item.span()),
                    format!("`{key}` must be a list of tables, not {}", kind(item.get_ref())),
                    format!("write {key} = [{{ … }}]"),
                );
                continue;
            };
            self.notes.stands(path.clone(), item.span());
            list.push(Section::scope(self.notes, Some(table), path, Some(item.span()), &read));
        }
        list
    }
}
