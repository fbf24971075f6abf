//! How errors are told: each says its own part, and [`chain`] puts the parts together.

use core::error::Error;
use core::fmt;

/// An error and its sources on one line, from the outermost to the innermost, with `: ` between them.
///
/// An error's own text never repeats that of its source, here and in every crate above: who shows an error shows its
/// chain.
///
/// ```
/// use relay_proto::error::chain;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("cannot read the cursor")]
/// struct Cursor(#[source] std::io::Error);
///
/// let error = Cursor(std::io::Error::other("the disk is on fire"));
/// assert_eq!(chain(&error).to_string(), "cannot read the cursor: the disk is on fire");
/// ```
pub fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl fmt::Display + 'e {
    Chain(error)
}

struct Chain<'e>(&'e (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}
