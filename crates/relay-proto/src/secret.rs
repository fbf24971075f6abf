//! Comparison of secrets.

/// Whether two texts are equal, in a time that depends only on their lengths: the duration reveals nothing about how
/// much of a guess was right.
///
/// ```
/// use relay_proto::secret::same_in_constant_time;
/// assert!(same_in_constant_time(b"key", b"key"));
/// assert!(!same_in_constant_time(b"key", b"kex"));
/// ```
pub fn same_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && core::hint::black_box(a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y))) == 0
}
