//! A small seeded generator for timeouts. The core has no randomness of its own.

/// SplitMix64 (Steele, Lea, Flood 2014): one add, two multiplications; equal seed, equal sequence.
///
/// It spreads election timeouts. Nothing that must be unguessable is made with it.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    pub(crate) const fn new(seed: u64) -> SplitMix64 {
        SplitMix64 { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `min` to `max`, both possible. The bias of the remainder does not matter for
    /// timeouts, because the ranges are tiny compared with 2^64.
    pub(crate) fn between(&mut self, min: u32, max: u32) -> u32 {
        assert!(min <= max, "the range {min}..={max} is empty");
        let span = u64::from(max - min) + 1;
        min + (self.next() % span) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn both_ends_of_a_range_are_drawn_and_nothing_outside() {
        let mut random = SplitMix64::new(7);
        let drawn: Vec<u32> = (0..1000).map(|_| random.between(3, 6)).collect();
        for wanted in 3..=6 {
            assert!(drawn.contains(&wanted));
        }
        assert!(drawn.iter().all(|number| (3..=6).contains(number)));
    }
}
