//! Who may see what: static tokens, and tickets for streams.

mod sessions;
mod tokens;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use relay_proto::pods::Filter;
use relay_proto::pods::problem_codes;
use relay_proto::problem::Problem;
use tokio_util::sync::CancellationToken;

pub(crate) use sessions::{Sessions, Ticket};
pub(crate) use tokens::TokenWatch;
pub use tokens::TokensError;

/// A credential's rights. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Principal {
    /// Who it is, for logs; `None` while no tokens are configured.
    pub(crate) subject: Option<Arc<str>>,
    /// The namespaces it may see; `None` is all.
    pub(crate) namespaces: Option<Arc<BTreeSet<String>>>,
    /// Cancelled when the credential is withdrawn, or its rights change.
    pub(crate) revoked: CancellationToken,
}

impl Principal {
    /// Everyone, while no tokens are configured.
    pub(crate) fn anyone() -> Self {
        Self { subject: None, namespaces: None, revoked: CancellationToken::new() }
    }

    /// Whether it sees only part of the cluster.
    pub(crate) fn limited(&self) -> bool {
        self.namespaces.is_some()
    }

    /// Whether a namespace is in reach.
    ///
    /// # Errors
    /// 403 `forbidden-namespace`.
    pub(crate) fn check(&self, namespace: &str) -> Result<(), Box<Problem>> {
        match &self.namespaces {
            Some(allowed) if !allowed.contains(namespace) => {
                let namespace: String = namespace.chars().take(80).collect();
                let detail = format!("namespace {namespace:?}: the credential does not reach it");
                Err(Box::new(Problem::new(problem_codes::FORBIDDEN_NAMESPACE, detail)))
            }
            _ => Ok(()),
        }
    }

    /// Narrows a filter to what the credential reaches.
    ///
    /// # Errors
    /// 403 `forbidden-namespace` when the filter asks for more.
    pub(crate) fn narrow(&self, filter: Filter) -> Result<Filter, Box<Problem>> {
        filter.namespaces().try_for_each(|namespace| self.check(namespace))?;
        match &self.namespaces {
            Some(allowed) if filter.namespaces().len() == 0 => {
                Ok(allowed.iter().fold(filter, |filter, namespace| {
                    filter.namespace(namespace).expect("checked when the tokens file was read")
                }))
            }
            _ => Ok(filter),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("subject", &self.subject)
            .field("namespaces", &self.namespaces)
            .finish_non_exhaustive()
    }
}
