//! Reproducible random numbers for tests.

/// A small generator (splitmix64): the same seed gives the same numbers on every machine. Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator at the start of the sequence that `seed` names.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A separate generator for one part of a test, such as one connection: a part stays the same when others change.
    #[must_use]
    pub fn fork(&self, part: u64) -> Self {
        let mut mixed = Self(self.0 ^ part.wrapping_mul(0xd134_2543_de82_ef95));
        Self(mixed.next_u64())
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end`, without `end`. An `end` of 0 gives 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // For every range that a test uses, the bias of the multiplication is below one in 2^32.
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// True once in `n` times on average; never for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        let mut rng = Rng::new(1_234_567);
        // The first numbers of the reference implementation for this seed.
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
        let mut small = Rng::new(7);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[small.below(5) as usize] = true;
        }
        assert_eq!((seen, small.below(0), small.one_in(0)), ([true; 5], 0, false));
    }

    #[test]
    fn forks_differ_and_repeat() {
        let rng = Rng::new(3);
        let first = |part| rng.fork(part).next_u64();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
        assert_ne!(first(0), Rng::new(3).next_u64());
    }
}
