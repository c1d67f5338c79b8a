//! How many voters agree: the one place where majorities are counted.

/// The number of voters that make a majority.
pub(crate) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest number that a majority has reached, given one number per voter.
///
/// Used for durable match indexes, heartbeat rounds and (reversed) silence. The slice is sorted in
/// place; a naive twin checks the result in debug builds (openraft #1802 forgot the sort).
pub(crate) fn reached_by_majority(numbers: &mut [u64]) -> u64 {
    assert!(!numbers.is_empty(), "a quorum of nobody was asked for");
    if !mutation!(QuorumUnsorted) {
        numbers.sort_unstable_by(|left, right| right.cmp(left));
    }
    let reached = numbers[majority(numbers.len()) - 1];
    debug_assert_eq!(reached, reached_by_majority_naive(numbers));
    reached
}

/// The same, straight from the definition: the highest number that enough voters are at or above.
fn reached_by_majority_naive(numbers: &[u64]) -> u64 {
    numbers
        .iter()
        .copied()
        .filter(|&bar| {
            let at_or_above = numbers.iter().filter(|&&number| number >= bar).count();
            at_or_above * 2 > numbers.len()
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn majorities_of_small_clusters() {
        let sizes: Vec<usize> = (1..=7).map(majority).collect();
        assert_eq!(sizes, [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn a_majority_is_needed_not_a_half() {
        assert_eq!(reached_by_majority(&mut [7]), 7);
        assert_eq!(reached_by_majority(&mut [7, 3]), 3);
        assert_eq!(reached_by_majority(&mut [1, 9, 5]), 5);
        assert_eq!(reached_by_majority(&mut [9, 9, 1, 1]), 1);
        assert_eq!(reached_by_majority(&mut [0, 9, 0, 9, 4]), 4);
    }

    proptest! {
        #[test]
        fn equals_the_naive_twin(numbers in prop::collection::vec(0u64..20, 1..9)) {
            let mut sorted = numbers.clone();
            prop_assert_eq!(reached_by_majority(&mut sorted), reached_by_majority_naive(&numbers));
        }

        #[test]
        fn is_a_number_that_a_majority_reached(
            numbers in prop::collection::vec(any::<u64>(), 1..9)
        ) {
            let reached = reached_by_majority(&mut numbers.clone());
            let there = numbers.iter().filter(|&&number| number >= reached).count();
            let beyond = numbers.iter().filter(|&&number| number > reached).count();
            prop_assert!(there >= majority(numbers.len()));
            prop_assert!(beyond < majority(numbers.len()));
        }
    }
}
