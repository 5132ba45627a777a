//! A gauge to which several loops of one process each have their share.

use prometheus::IntGauge;

/// Taken off the gauge when it is dropped.
pub struct Share {
    of: IntGauge,
    shown: i64,
}

impl Share {
    pub fn of(gauge: &IntGauge) -> Self {
        Self { of: gauge.clone(), shown: 0 }
    }

    pub fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if count != self.shown {
            self.of.add(count - self.shown);
            self.shown = count;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.sub(self.shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_add_up_and_one_that_ends_takes_its_share_along() {
        let gauge = IntGauge::new("a", "a gauge").expect("a sound name");
        let (mut one, mut other) = (Share::of(&gauge), Share::of(&gauge));
        one.set(3);
        other.set(2);
        one.set(1);
        assert_eq!(gauge.get(), 3);
        drop(one);
        assert_eq!(gauge.get(), 2);
    }
}
