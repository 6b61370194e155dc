//! Memory: one limit, split among the parts of a database and of who serves it.
//!
//! [`MemoryShares::of`] splits the limit. Whoever has a share keeps to it: queries by their common
//! account, caches by their size, bodies by a gate, the head by [`Pressure`]. As its share fills,
//! upkeep puts into blocks what can go (`compaction/plan.rs`); if writes are quicker than that, new
//! series are refused for the time being, and at the very end every write. Replay never refuses: it
//! puts into blocks whatever is too much (`recovery.rs`).

/// How a limit is split. What is left of the machine or the control group beside the limit is for
/// the program itself, for what allocators lose, and for mapped files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShares {
    /// Series in memory.
    pub head: u64,
    /// Blocks in the making: the labels and the index of their series.
    pub upkeep: u64,
    /// Queries that run, and their answers until they are sent.
    pub queries: u64,
    /// Decompressed pages of blocks.
    pub pages: u64,
    /// Results of range queries.
    pub results: u64,
    /// Bodies of writes, as they come and decoded.
    pub bodies: u64,
}

/// Caches of more than this would hold what the system keeps in memory already.
const PAGES_MAX: u64 = 256 << 20;
const RESULTS_MAX: u64 = 1 << 30;

impl MemoryShares {
    /// The shares of so many bytes; together never more.
    pub fn of(limit: u64) -> MemoryShares {
        let percent = |share: u64| limit / 100 * share;
        MemoryShares {
            head: percent(45),
            upkeep: percent(15),
            queries: percent(25),
            pages: percent(5).min(PAGES_MAX),
            results: percent(3).min(RESULTS_MAX),
            bodies: percent(7),
        }
    }
}

/// What storage itself keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    pub head_bytes: u64,
    pub upkeep_bytes: u64,
}

impl MemoryLimits {
    pub const NONE: MemoryLimits = MemoryLimits { head_bytes: u64::MAX, upkeep_bytes: u64::MAX };
}

impl From<MemoryShares> for MemoryLimits {
    fn from(shares: MemoryShares) -> MemoryLimits {
        MemoryLimits { head_bytes: shares.head, upkeep_bytes: shares.upkeep }
    }
}

/// What a series takes while it is sealed, about: its labels, its place in the order and in the
/// index of the block.
const SEALED_SERIES_BYTES: u64 = 512;

/// …and while blocks are merged: where it comes from, too; estimated on the safe side.
const MERGED_SERIES_BYTES: u64 = 256;

impl MemoryLimits {
    /// How full the head is that takes so many bytes.
    pub(crate) fn pressure(self, head_bytes: u64) -> Pressure {
        let percent = |share: u64| self.head_bytes / 100 * share;
        match head_bytes {
            bytes if bytes >= percent(100) => Pressure::Full,
            bytes if bytes >= percent(REFUSING_PERCENT) => Pressure::Refusing,
            bytes if bytes >= percent(HIGH_PERCENT) => Pressure::High,
            _ => Pressure::None,
        }
    }

    /// Whether a head that is being recovered has more than it would have had in service.
    pub(crate) fn is_to_be_spilled(self, head_bytes: u64) -> bool {
        head_bytes >= self.head_bytes / 100 * SPILL_PERCENT
    }

    /// New series that fit.
    pub(crate) fn room_for_series(self, head_bytes: u64) -> RoomForSeries {
        let most = self.head_bytes / 100 * SERIES_PERCENT;
        RoomForSeries { bytes: most.saturating_sub(head_bytes) }
    }

    /// Different series that blocks may have together to be merged or rolled up.
    pub(crate) fn merged_series_max(self) -> u64 {
        (self.upkeep_bytes / MERGED_SERIES_BYTES).max(4096)
    }

    /// Series that may be sealed at once, beside those that must be.
    pub(crate) fn sealed_series_max(self) -> usize {
        usize::try_from(self.upkeep_bytes / SEALED_SERIES_BYTES).unwrap_or(usize::MAX).max(1024)
    }
}

/// Room for series that are new: what a write may still make of them.
#[derive(Debug)]
pub(crate) struct RoomForSeries {
    bytes: u64,
}

/// What a new series takes besides its labels, about: its place, a first sample, and its share of
/// tables that grow by doubling.
const NEW_SERIES_BYTES: u64 = 768;

impl RoomForSeries {
    /// Whether there is room for one more; then it is taken.
    pub(crate) fn take(&mut self, label_bytes: usize) -> bool {
        let left = self.bytes.checked_sub(NEW_SERIES_BYTES + label_bytes as u64);
        self.bytes = left.unwrap_or(self.bytes);
        left.is_some()
    }
}

/// Why a new series has to wait.
pub(crate) const NO_ROOM: &str = "there is no memory for new series at present (--memory.limit)";

/// From here on upkeep empties the head: a share takes seconds to fill and to empty.
const HIGH_PERCENT: u64 = 70;

/// From here on the next new series may have to wait.
const REFUSING_PERCENT: u64 = 80;

/// There are no new series beyond this: the rest is for samples of those that there are.
const SERIES_PERCENT: u64 = 85;

/// A replay that comes to this puts the head into blocks: samples of known series have led there,
/// or the limit was greater before.
const SPILL_PERCENT: u64 = 95;

/// How much the head has of its share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    #[default]
    None,
    /// What can go into blocks goes.
    High,
    /// There is hardly room for new series, if at all.
    Refusing,
    /// All writes are.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_never_more_than_the_limit() {
        for limit in [0, 1, 99, 100, 614 << 20, 1 << 40, u64::MAX] {
            let MemoryShares { head, upkeep, queries, pages, results, bodies } =
                MemoryShares::of(limit);
            let all = [head, upkeep, queries, pages, results, bodies];
            let sum: u128 = all.into_iter().map(u128::from).sum();
            assert!(sum <= u128::from(limit), "{limit}: {all:?}");
        }
    }

    #[test]
    fn pressure_grows_as_the_share_fills() {
        let limits = MemoryLimits { head_bytes: 1000, upkeep_bytes: 0 };
        let found = [0, 699, 700, 799, 800, 999, 1000].map(|bytes| limits.pressure(bytes));
        let [high, refusing] = [Pressure::High, Pressure::Refusing];
        let none = Pressure::None;
        assert_eq!(found, [none, none, high, high, refusing, refusing, Pressure::Full]);
        assert_eq!([840, 900].map(|bytes| limits.room_for_series(bytes).bytes), [10, 0]);
        assert_eq!(MemoryLimits::NONE.pressure(1 << 50), Pressure::None);
    }
}
