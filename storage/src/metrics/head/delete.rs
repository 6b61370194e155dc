//! Deleting from the head: samples go there and then.

use std::collections::HashSet;

use roaring::RoaringBitmap;

use crate::matcher::Matcher;
use crate::metrics::head::Head;
use crate::time::{TimeRange, WINDOW_MS};

impl Head {
    fn select_any(&self, selectors: &[Vec<Matcher>]) -> RoaringBitmap {
        let mut ids = RoaringBitmap::new();
        selectors.iter().for_each(|matchers| ids |= self.index.select(matchers));
        ids
    }

    /// The selected series, companions included, that have samples of the range, and how many.
    pub(crate) fn count_selected(
        &self,
        selectors: &[Vec<Matcher>],
        range: TimeRange,
    ) -> Vec<(u32, u64)> {
        let ids = self.select_any(selectors);
        let counts = ids.iter().map(|id| (id, self.series(id).count(range, &self.columns)));
        counts.filter(|(_, samples)| *samples > 0).collect()
    }

    /// Whether there is anything of the selected series and the range.
    pub(crate) fn has_selected(&self, selectors: &[Vec<Matcher>], range: TimeRange) -> bool {
        let ids = self.select_any(selectors);
        let has_samples = |id: u32| self.series(id).count(range, &self.columns) > 0;
        let mut exemplars = self.exemplars();
        exemplars.any(|(id, one)| ids.contains(id) && range.contains(one.timestamp))
            || ids.iter().any(has_samples)
    }

    /// Removes samples and exemplars of the selected series and the range.
    pub(crate) fn remove_selected(&mut self, selectors: &[Vec<Matcher>], range: TimeRange) {
        let ids = self.select_any(selectors);
        for id in &ids {
            let gone = self.change(id, |series, columns| {
                let late = series.late_count();
                series.remove(range, columns);
                late - series.late_count()
            });
            self.late_samples = self.late_samples.saturating_sub(gone);
        }
        self.exemplars
            .retain(|known| !(ids.contains(known.id) && range.contains(known.exemplar.timestamp)));
        self.generations.advance();
        let windows: HashSet<i64> = self.windows.keys().copied().collect();
        for start in windows {
            let window = TimeRange::new(start, start.saturating_add(WINDOW_MS - 1));
            if window.overlaps(range) {
                self.generations.note_range(window);
            }
        }
    }
}
