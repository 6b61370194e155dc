//! Names on the simulated disk: folders, and the changes to them that are not yet durable.

use std::collections::BTreeMap;

use super::state::{NodeId, ROOT};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    File(NodeId),
    Folder(NodeId),
}

/// Entries by name, by folder.
#[derive(Clone, Default)]
pub(super) struct Folders(pub(super) BTreeMap<NodeId, BTreeMap<String, Entry>>);

/// Where a name is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folder: NodeId,
    pub(super) name: String,
}

#[derive(Clone)]
pub(super) enum Change {
    Link { place: Place, entry: Entry },
    Unlink { place: Place, entry: Entry },
    Move { from: Place, to: Place, entry: Entry },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Until the next sync.
    Pending,
    /// A sync of it failed; no later one helps.
    Doubtful,
    Durable,
}

impl Folders {
    pub(super) fn with_root() -> Folders {
        Folders(BTreeMap::from([(ROOT, BTreeMap::new())]))
    }

    pub(super) fn get(&self, place: &Place) -> Option<Entry> {
        self.0.get(&place.folder)?.get(&place.name).copied()
    }

    pub(super) fn set(&mut self, place: &Place, entry: Entry) {
        self.0.entry(place.folder).or_default().insert(place.name.clone(), entry);
        if let Entry::Folder(id) = entry {
            self.0.entry(id).or_default();
        }
    }

    /// Takes an entry away, if it is still the one meant.
    pub(super) fn unset(&mut self, place: &Place, entry: Entry) {
        if self.get(place) == Some(entry)
            && let Some(names) = self.0.get_mut(&place.folder)
        {
            names.remove(&place.name);
        }
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { place, entry } => self.set(place, *entry),
            Change::Unlink { place, entry } => self.unset(place, *entry),
            Change::Move { from, to, entry } => {
                self.unset(from, *entry);
                self.set(to, *entry);
            }
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.0.values().flat_map(|names| names.values().copied())
    }
}

impl Change {
    pub(super) fn touches(&self, folder: NodeId) -> bool {
        match self {
            Change::Link { place, .. } | Change::Unlink { place, .. } => place.folder == folder,
            Change::Move { from, to, .. } => from.folder == folder || to.folder == folder,
        }
    }

    pub(super) fn entry(&self) -> Entry {
        match self {
            Change::Link { entry, .. }
            | Change::Unlink { entry, .. }
            | Change::Move { entry, .. } => *entry,
        }
    }
}
