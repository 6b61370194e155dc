//! `--name value` arguments, enough for measuring programs.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// Arguments by name; what nobody asks for is an error in the end.
#[derive(Debug)]
pub struct Arguments {
    given: BTreeMap<String, String>,
}

impl Arguments {
    /// Reads pairs `--name value`.
    pub fn read(arguments: impl IntoIterator<Item = String>) -> Result<Arguments> {
        let mut given = BTreeMap::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--") else { bail!("unexpected {argument:?}") };
            let value = arguments.next().with_context(|| format!("--{name} needs a value"))?;
            given.insert(name.to_owned(), value);
        }
        Ok(Arguments { given })
    }

    pub fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.given.remove(name) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => bail!("--{name} cannot be {text:?}"),
        }
    }

    pub fn or<T: FromStr>(&mut self, name: &str, default: T) -> Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    pub fn required<T: FromStr>(&mut self, name: &str) -> Result<T> {
        self.optional(name)?.with_context(|| format!("--{name} is missing"))
    }

    /// Refuses what was given and not asked for.
    pub fn finish(self) -> Result<()> {
        match self.given.keys().next() {
            Some(name) => bail!("unknown argument --{name}"),
            None => Ok(()),
        }
    }
}
