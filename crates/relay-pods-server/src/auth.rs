//! Access control: tokens, and tickets for streams.

mod sessions;

use std::collections::BTreeSet;
use std::sync::Arc;

use relay_proto::pods::{Filter, problem_codes};
use relay_proto::problem::Problem;
use relay_transport::server::{self, Rights};

pub(crate) use sessions::{Sessions, Ticket};

/// A credential of the tokens file.
pub(crate) type Principal = server::Principal<Namespaces>;
/// The tokens file.
pub(crate) type TokenWatch = server::TokenWatch<Namespaces>;

/// The namespaces that a credential may see; `None` is all. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespaces(Option<Arc<BTreeSet<String>>>);

impl Rights for Namespaces {
    const LINE: &'static str = "a line is TOKEN SUBJECT NAMESPACES";

    fn parse(fields: &[&str]) -> Result<Self, &'static str> {
        let [namespaces] = fields else { return Err(Self::LINE) };
        if *namespaces == "*" {
            return Ok(Self::all());
        }
        if !namespaces.split(',').all(|name| Filter::new().namespace(name).is_ok()) {
            return Err("NAMESPACES is * or a comma list of DNS-1123 labels");
        }
        Ok(Self(Some(Arc::new(namespaces.split(',').map(Into::into).collect()))))
    }
}

impl Namespaces {
    /// The whole cluster.
    pub(crate) fn all() -> Self {
        Self(None)
    }

    /// Whether it sees only part of the cluster.
    pub(crate) fn limited(&self) -> bool {
        self.0.is_some()
    }

    /// Checks that the credential may see a namespace.
    ///
    /// # Errors
    /// 403 `forbidden-namespace`.
    pub(crate) fn check(&self, namespace: &str) -> Result<(), Box<Problem>> {
        match &self.0 {
            Some(allowed) if !allowed.contains(namespace) => {
                let namespace: String = namespace.chars().take(80).collect();
                let detail = format!("namespace {namespace:?}: the credential does not reach it");
                Err(Box::new(Problem::new(problem_codes::FORBIDDEN_NAMESPACE, detail)))
            }
            _ => Ok(()),
        }
    }

    /// Narrows a filter to the namespaces of the credential.
    ///
    /// # Errors
    /// 403 `forbidden-namespace` when the filter asks for more.
    pub(crate) fn narrow(&self, filter: Filter) -> Result<Filter, Box<Problem>> {
        filter.namespaces().try_for_each(|namespace| self.check(namespace))?;
        match &self.0 {
            Some(allowed) if filter.namespaces().len() == 0 => {
                Ok(allowed.iter().fold(filter, |filter, namespace| {
                    filter.namespace(namespace).expect("checked when the tokens file was read")
                }))
            }
            _ => Ok(filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_a_star_or_a_comma_list() {
        let of = |fields: &[&str]| Namespaces::parse(fields);
        assert_eq!(of(&["*"]), Ok(Namespaces::all()));
        let some = of(&["prod,dev"]).unwrap();
        assert!(some.check("dev").is_ok() && some.check("prod").is_ok() && some.check("pro").is_err());
        for wrong in ["a,,b", "PROD", "*,a", "", "a,"] {
            assert!(of(&[wrong]).unwrap_err().contains("comma list"), "{wrong}");
        }
        for wrong in [&[][..], &["a", "b"]] {
            assert_eq!(of(wrong), Err(Namespaces::LINE));
        }
    }
}
