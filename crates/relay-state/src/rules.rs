//! Rules of a fold by name, so that a test can switch one off and show what goes wrong without it.
//!
//! Outside of tests every rule is on, and the check costs nothing.

/// Makes `Rule`, and `rule(Rule)` that says whether it holds; for tests `Rule::ALL` and `without(rule, work)`.
macro_rules! rules {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// One rule.
        #[cfg_attr(not(test), allow(dead_code, reason = "some are asked about in tests or by drivers only"))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Rule { $($(#[doc = $doc])* $name,)* }

        #[cfg(test)]
        impl Rule {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            /// The text of the rule.
            pub(crate) fn says(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }

        /// Whether the rule holds.
        #[cfg(not(test))]
        #[inline(always)]
        pub(crate) const fn rule(_rule: Rule) -> bool {
            true
        }

        #[cfg(test)]
        thread_local! {
            static OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
        }

        /// Whether the rule holds.
        #[cfg(test)]
        pub(crate) fn rule(rule: Rule) -> bool {
            OFF.get() != Some(rule)
        }

        /// Switches a rule off on this thread while `work` runs.
        #[cfg(test)]
        pub(crate) fn without<T>(rule: Option<Rule>, work: impl FnOnce() -> T) -> T {
            let before = OFF.replace(rule);
            let result = work();
            OFF.set(before);
            result
        }
    };
}
pub(crate) use rules;
