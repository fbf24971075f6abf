//! `relay bus crds`: manifests of the four kinds, and RBAC rules.

use std::io::Write as _;

use relay_proto::bus::{GROUP, Kind, VERSION};

use crate::args::BusCrdsArgs;
use crate::exit::Exit;

pub(super) fn run(args: &BusCrdsArgs) -> anyhow::Result<Exit> {
    let mut text: String =
        Kind::ALL.iter().map(|kind| definition(*kind, !args.no_status_subresource)).collect();
    if args.rbac {
        text += &role();
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(Exit::Done)
}

fn definition(kind: Kind, status: bool) -> String {
    let (short, categories): (&[&str], &[&str]) = match kind {
        Kind::Bus => (&[], &["all", "knative", "kbus", "eventing"]),
        Kind::ClusterBus => (&["cbus"], &["all", "knative", "kbus", "eventing"]),
        Kind::Channel => (&["chan"], &["all", "knative", "eventing"]),
        Kind::Subscription => (&["sub"], &["all", "knative", "eventing"]),
    };
    let (name, plural) = (kind.as_str(), kind.plural());
    let singular = name.to_ascii_lowercase();
    let scope = if kind.is_namespaced() { "Namespaced" } else { "Cluster" };
    let short =
        if short.is_empty() { String::new() } else { format!("    shortNames: [{}]\n", short.join(", ")) };
    let status = if status { "      subresources:\n        status: {}\n" } else { "" };
    let categories = categories.join(", ");
    format!(
        "---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.{GROUP}
spec:
  group: {GROUP}
  scope: {scope}
  names:
    kind: {name}
    listKind: {name}List
    plural: {plural}
    singular: {singular}
{short}    categories: [{categories}]
  versions:
    - name: {VERSION}
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          x-kubernetes-preserve-unknown-fields: true
{status}"
    )
}

fn role() -> String {
    format!(
        "---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: relay-bus
rules:
  - apiGroups: [{GROUP}]
    resources: [buses, clusterbuses, channels, subscriptions]
    verbs: [get, list, watch]
  - apiGroups: [{GROUP}]
    resources: [channels, channels/status, subscriptions, subscriptions/status]
    verbs: [patch]
  - apiGroups: [\"\", events.k8s.io]
    resources: [events]
    verbs: [create, patch]
"
    )
}
