//! Setters of configurations, written once for the crates of this workspace.

/// For each row `name: Type`, a method `name` that sets that field and returns the configuration. A row
/// `name: impl Into<Type>` accepts any value that converts. Documentation may precede a row; by default it names the
/// field.
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    ($config:ident { $($(#[$doc:meta])* $name:ident: $value:ty),* $(,)? }) => {
        impl $config {
            $($crate::setters! { @ [$(#[$doc])*] $name: $value })*
        }
    };
    (@ [] $name:ident: $value:ty) => {
        $crate::setters! {
            @ [#[doc = concat!("Sets [`", stringify!($name), "`](#structfield.", stringify!($name), ").")]]
            $name: $value
        }
    };
    (@ [$(#[$doc:meta])+] $name:ident: $value:ty) => {
        $(#[$doc])+
        #[must_use]
        pub fn $name(mut self, $name: $value) -> Self {
            self.$name = $name.into();
            self
        }
    };
}
