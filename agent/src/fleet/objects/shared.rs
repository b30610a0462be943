//! What many objects have in common, held once. Pure.

use std::{collections::HashSet, sync::Arc};

use super::{Claim, Pod};

/// Texts and claims that are in use.
#[derive(Debug, Default)]
pub struct Shared {
    texts: HashSet<Arc<str>>,
    claims: HashSet<Arc<Claim>>,
    /// So many there were after the last tidying.
    kept: usize,
}

impl Shared {
    /// Lets the pod use what is there already.
    pub fn share(&mut self, pod: &mut Pod) {
        self.tidy();
        self.text(&mut pod.namespace);
        if let Some(revision) = &mut pod.revision {
            self.text(revision);
        }
        match self.claims.get(&pod.claim) {
            Some(known) => pod.claim = Arc::clone(known),
            None => drop(self.claims.insert(Arc::clone(&pod.claim))),
        }
    }

    fn text(&mut self, text: &mut Arc<str>) {
        match self.texts.get(text) {
            Some(known) => *text = Arc::clone(known),
            None => drop(self.texts.insert(Arc::clone(text))),
        }
    }

    /// Drops what nobody uses any more, whenever it has doubled.
    fn tidy(&mut self) {
        if self.texts.len() + self.claims.len() > 2 * self.kept + 1024 {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.claims.retain(|claim| Arc::strong_count(claim) > 1);
            self.kept = self.texts.len() + self.claims.len();
        }
    }
}
