//! What is usual, to tell what is not.

/// Observations over which mean and deviation are taken, about.
const MEMORY: f32 = 64.0;
/// Observations before anything can be unusual.
const FEWEST: f32 = 8.0;

/// Running mean and deviation of a number.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usual {
    count: f32,
    mean: f32,
    square: f32,
}

impl Usual {
    /// Takes in `number`, and says whether it lies more than `deviations` standard deviations above the mean before.
    pub(super) fn surpassed_by(&mut self, number: f32, deviations: f32) -> bool {
        let variance = (self.square - self.mean * self.mean).max(0.0);
        let unusual = self.count >= FEWEST && number > self.mean + deviations * variance.sqrt();
        self.count = (self.count + 1.0).min(MEMORY);
        self.mean += (number - self.mean) / self.count;
        self.square += (number * number - self.square) / self.count;
        unusual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_out_surpasses_the_usual() {
        let mut usual = Usual::default();
        assert!((0..40_u8).all(|i| !usual.surpassed_by(f32::from(i % 5), 3.0)));
        assert!(usual.surpassed_by(9.0, 3.0));
        assert!(!usual.surpassed_by(2.0, 3.0));
    }
}
