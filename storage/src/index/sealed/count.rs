//! Counting: how many series have a name, or a value of it, without building sets of them.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::{Damage, SealedIndex, StoredPostings};
use crate::index::dictionary::{Name, Values};
use crate::index::packed;
use crate::index::{NameCounts, ROWS_A_PAIR};

impl SealedIndex {
    /// Label names in bytewise order, with how many of some series, or of all, have them.
    pub(crate) fn named_counts(
        &self,
        of: Option<&RoaringBitmap>,
    ) -> Result<Vec<(&str, u64)>, Damage> {
        let names = self.dictionary.names().iter();
        names.map(|name| Ok((&*name.text, self.count(name.series, of)?))).collect()
    }

    /// Of some series, or of all, how many have the label, and how many this value of it.
    pub(crate) fn pair_count_of(
        &self,
        name: &str,
        value: &str,
        of: Option<&RoaringBitmap>,
    ) -> Result<u64, Damage> {
        let Some(name) = self.dictionary.name(name) else { return Ok(0) };
        let found = self.dictionary.find(name, value)?;
        found.map_or(Ok(0), |stored| self.count(stored, of))
    }

    /// The values of a label, each with how many of some series, or of all, have it.
    pub(crate) fn counted_values<'a>(
        &'a self,
        name: &str,
        of: Option<&'a RoaringBitmap>,
    ) -> Option<CountedValues<'a>> {
        let name = self.dictionary.name(name)?;
        Some(CountedValues { index: self, values: self.dictionary.values(name), of })
    }

    /// Whether these series are so few that [`Self::counts_of_rows`] is quicker.
    pub(crate) fn are_few(&self, ids: &RoaringBitmap) -> bool {
        ids.len() < self.pair_count() / ROWS_A_PAIR
    }

    /// How many of some series have each name and each value of it, by their rows.
    pub(crate) fn counts_of_rows(&self, of: &RoaringBitmap) -> Result<Vec<NameCounts>, Damage> {
        let mut codes: HashMap<(u32, u32), u64> = HashMap::new();
        self.each_row(of, None, |_, row, columns| {
            for column in columns {
                if let Some(code) = column.code(row)? {
                    *codes.entry((column.name.first_pair, code)).or_default() += 1;
                }
            }
            Ok(())
        })?;
        let mut codes: Vec<((u32, u32), u64)> = codes.into_iter().collect();
        codes.sort_unstable();
        let of_name = |codes: &[((u32, u32), u64)]| {
            let (first_pair, _) = codes[0].0;
            let names = self.dictionary.names();
            let name = &names[names.partition_point(|name| name.first_pair < first_pair)];
            let values = codes
                .iter()
                .map(|((_, code), series)| Ok((self.value_text(name, *code)?, *series)));
            Ok(NameCounts {
                name: name.text.to_string(),
                series: codes.iter().map(|(_, series)| series).sum(),
                values: values.collect::<Result<_, Damage>>()?,
            })
        };
        codes.chunk_by(|a, b| a.0.0 == b.0.0).map(of_name).collect()
    }

    fn value_text(&self, name: &Name, code: u32) -> Result<Arc<str>, Damage> {
        let mut bytes = Vec::new();
        self.dictionary.value(name, code - 1, &mut bytes)?;
        Ok(std::str::from_utf8(&bytes).expect("the dictionary gives UTF-8").into())
    }

    pub(super) fn count(
        &self,
        stored: StoredPostings,
        of: Option<&RoaringBitmap>,
    ) -> Result<u64, Damage> {
        let bytes = self.postings.bytes_of(&stored)?;
        packed::count(bytes, self.series, of).ok_or(self.postings.damage(stored))
    }
}

/// Values of a label in bytewise order with their counts, which may be 0.
pub(crate) struct CountedValues<'a> {
    index: &'a SealedIndex,
    values: Values<'a>,
    of: Option<&'a RoaringBitmap>,
}

impl CountedValues<'_> {
    /// Puts the next value into `text` and gives its count; `None` after the last.
    pub(crate) fn next(&mut self, text: &mut String) -> Result<Option<u64>, Damage> {
        let Some((value, stored)) = self.values.next()? else { return Ok(None) };
        text.clear();
        text.push_str(value);
        self.index.count(stored, self.of).map(Some)
    }
}

/// All counts that are not 0, as the index of the head gives them.
#[cfg(test)]
pub(super) fn all_counts(
    index: &SealedIndex,
    of: Option<&RoaringBitmap>,
) -> Result<Vec<NameCounts>, Damage> {
    let mut counts = Vec::new();
    for (name, series) in index.named_counts(of)?.into_iter().filter(|(_, series)| *series > 0) {
        let mut values = Vec::new();
        let mut text = String::new();
        let mut cursor = index.counted_values(name, of).expect("the name is there");
        while let Some(count) = cursor.next(&mut text)? {
            assert_eq!(index.pair_count_of(name, &text, of)?, count);
            if count > 0 {
                values.push((Arc::from(&*text), count));
            }
        }
        counts.push(NameCounts { name: name.to_owned(), series, values });
    }
    Ok(counts)
}
