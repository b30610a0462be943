//! How large a request may be, learnt from what the receiver refuses. Pure.

/// The limit of what goes into one request: it is halved where the receiver says that a request is too large.
#[derive(Debug)]
pub(super) struct Size {
    limit: usize,
    most: usize,
    least: usize,
    /// Smaller requests may get through. Not so after one of the least size did not: some receivers say "exhausted" of a
    /// quota as well, and one request that is refused is better than all its pieces.
    helps: bool,
}

impl Size {
    /// Begins with `most`, and does not go below `least`.
    pub(super) fn new(most: usize, least: usize) -> Self {
        Self { limit: most, most, least, helps: true }
    }

    /// What a request may have at most.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A request of this size, which can be divided or not, was too large. True: it is to be offered in smaller pieces.
    pub(super) fn refused(&mut self, size: usize, divisible: bool) -> bool {
        if !self.helps || (!divisible && size > self.least) {
            return false;
        }
        if size <= self.least {
            (self.helps, self.limit) = (false, self.most);
            return false;
        }
        self.limit = (size.min(self.limit) / 2).max(self.least);
        true
    }

    /// A request was accepted.
    pub(super) fn accepted(&mut self) {
        self.helps = true;
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn what_is_too_large_is_halved_until_it_gets_through() {
        let mut size = Size::new(1000, 100);
        assert!(size.refused(900, true));
        assert_eq!(size.limit(), 450);
        assert!(size.refused(440, true));
        assert_eq!(size.limit(), 220);
        size.accepted();
        assert_eq!(size.limit(), 220, "the receiver's limit is still there");
        assert!(size.refused(150, true));
        assert_eq!(size.limit(), 100);
    }

    #[test]
    fn what_cannot_be_divided_is_given_up_alone() {
        let mut size = Size::new(1000, 100);
        assert!(!size.refused(900, false));
        assert!(size.refused(900, true), "others can");
    }

    #[test]
    fn where_size_is_not_the_reason_requests_are_whole_again_and_refused_once_each() {
        let mut size = Size::new(1000, 100);
        assert!(
            size.refused(1000, true) && size.refused(500, true) && size.refused(250, true) && size.refused(125, true)
        );
        assert!(!size.refused(100, true));
        assert_eq!(size.limit(), 1000);
        assert!(!size.refused(1000, true), "no second try");
        size.accepted();
        assert!(size.refused(1000, true));
    }
}
