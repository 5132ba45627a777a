//! By where its changelog stands it is known that nobody else has written: a partition that was given back goes on at once, and
//! a store is current.

/// Where a changelog stands, as long as nobody else writes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Behind the last record of ours.
    pub next: i64,
    /// Offsets that the end of our last transaction takes there, now or in a moment.
    marker: i64,
}

impl Place {
    pub fn at(end: i64) -> Self {
        Self { next: end, marker: 0 }
    }

    /// A transaction with so many records was committed: that of the one before had ended by then.
    pub fn wrote(&mut self, records: i64, marker: i64) {
        self.next += self.marker + records;
        self.marker = marker;
    }

    /// Whether nobody has written since. Another owner's first record can't be there before our marker is: it would have
    /// replayed up to the end of our transaction first.
    pub fn is_end(self, end: i64) -> bool {
        (self.next..=self.next + self.marker).contains(&end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changelog_ends_where_we_left_it_until_anybody_else_writes() {
        let marker = 1;
        let mut place = Place::at(10);
        assert_eq!([9, 10, 11].map(|end| place.is_end(end)), [false, true, false]);
        // Three records and their marker, which may not be there yet.
        place.wrote(3, marker);
        assert_eq!([12, 13, 14, 15].map(|end| place.is_end(end)), [false, true, true, false]);
        // The next transaction begins behind that marker.
        place.wrote(2, marker);
        assert_eq!([15, 16, 17, 18].map(|end| place.is_end(end)), [false, true, true, false]);
        // On a bus without markers another's single record shows.
        let mut place = Place::at(0);
        place.wrote(1, 0);
        assert_eq!([0, 1, 2].map(|end| place.is_end(end)), [false, true, false]);
    }
}
