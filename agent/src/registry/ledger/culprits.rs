//! Who made others wait, each under a number: what an entity lost is kept, added to and found without a look at names.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::signal::{EntityKey, Naming};

/// A culprit's number in the ledger, for as long as the ledger's epoch lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CulpritId(u32);

/// All who made somebody wait.
#[derive(Debug, Default)]
pub(super) struct Culprits {
    known: Vec<Culprit>,
    numbers: HashMap<EntityKey, CulpritId, RandomState>,
}

#[derive(Debug)]
struct Culprit {
    entity: EntityKey,
    /// What it is called; found when it is first asked for.
    named: Option<EntityKey>,
    /// Its position in the present list of entities, likewise.
    position: Option<u32>,
}

impl Culprits {
    /// The culprit's number, given if need be.
    pub(super) fn id(&mut self, entity: &EntityKey) -> CulpritId {
        if let Some(id) = self.numbers.get(entity) {
            return *id;
        }
        let id = CulpritId(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        self.known.push(Culprit { entity: entity.clone(), named: None, position: None });
        self.numbers.insert(entity.clone(), id);
        id
    }

    /// Each of them, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &EntityKey> {
        self.known.iter().map(|culprit| &culprit.entity)
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Names may have changed.
    pub(super) fn forget_names(&mut self) {
        for culprit in &mut self.known {
            (culprit.named, culprit.position) = (None, None);
        }
    }

    /// The list of entities is another one.
    pub(super) fn forget_positions(&mut self) {
        for culprit in &mut self.known {
            culprit.position = None;
        }
    }

    /// Keeps those for whom `is_wanted` holds under new numbers. Gives the new number of each by its old one; none of those
    /// that are gone.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(CulpritId) -> bool) -> Vec<Option<CulpritId>> {
        let mut next = 0;
        let new: Vec<Option<CulpritId>> = (0..)
            .zip(&self.known)
            .map(|(old, _)| {
                let id = is_wanted(CulpritId(old)).then_some(CulpritId(next));
                next += u32::from(id.is_some());
                id
            })
            .collect();
        let mut kept = new.iter();
        self.known.retain(|_| kept.next().is_some_and(Option::is_some));
        self.numbers.retain(|_, id| match new.get(place(*id)).copied().flatten() {
            Some(new) => {
                *id = new;
                true
            }
            None => false,
        });
        new
    }

    /// The culprit's position in the list of entities, which `find` finds by what it is called and by who it is, once for as long
    /// as the list is the same one; none if nobody has that number.
    pub(super) fn position(
        &mut self,
        id: CulpritId,
        naming: &impl Naming,
        find: impl FnOnce(&EntityKey, &EntityKey) -> u32,
    ) -> Option<u32> {
        let Culprit { entity, named, position } = self.known.get_mut(place(id))?;
        Some(*position.get_or_insert_with(|| find(named.get_or_insert_with(|| naming.name(entity).into()), entity)))
    }
}

/// Where one stands in a list by number.
pub(super) fn place(id: CulpritId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}
