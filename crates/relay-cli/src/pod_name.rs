//! Names of pods on a command line.

use relay_pods::PodKey;

use crate::exit::Usage;

/// The variable with a namespace for every command. It is a default: a namespace in a name takes precedence over it.
const VARIABLE: &str = "RELAY_NAMESPACE";

/// The words that kubectl writes before names of other kinds.
const OTHER_KINDS: [&str; 14] = [
    "cronjob",
    "daemonset",
    "deploy",
    "deployment",
    "ds",
    "job",
    "node",
    "replicaset",
    "rs",
    "service",
    "statefulset",
    "sts",
    "svc",
    "workload",
];

/// The namespace of `-n`, or of the environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Namespace<'a> {
    name: &'a str,
    from_flag: bool,
}

impl<'a> Namespace<'a> {
    /// `name` is the value of the flag or of its variable.
    pub(crate) fn new(name: &'a str) -> Self {
        let from_flag = std::env::var(VARIABLE).map_or(true, |variable| variable != name);
        Self { name, from_flag }
    }

    pub(crate) fn is_from_flag(self) -> bool {
        self.from_flag
    }
}

/// Reads `NAMESPACE/NAME`; with a namespace also `NAME`, and as kubectl prints it `pod/NAME`.
///
/// # Errors
/// When it is none of these, or contradicts the namespace of the flag.
pub(crate) fn pod_key(text: &str, namespace: Option<Namespace<'_>>) -> Result<PodKey, Usage> {
    let wrong = |rule: &str| Usage(format!("pod {text:?}: {rule}"));
    let rule = || wrong("write NAMESPACE/NAME, or NAME with one --namespace");
    let (before, name) = match text.split_once('/') {
        Some((before, name)) => (Some(before), name),
        None => (None, text),
    };
    if name.is_empty() || name.contains('/') || before == Some("") {
        return Err(rule());
    }
    match (before, namespace) {
        (None, None) => Err(rule()),
        (None, Some(namespace)) => Ok(PodKey::new(namespace.name, name)),
        (Some("pod" | "pods"), Some(namespace)) => Ok(PodKey::new(namespace.name, name)),
        (Some("pod" | "pods"), None) => {
            Err(wrong("in which namespace? Write NAMESPACE/NAME, or give --namespace"))
        }
        (Some(before), Some(namespace)) if namespace.from_flag && namespace.name != before => {
            let kind = before.split('.').next().unwrap_or(before).to_ascii_lowercase();
            let is_kind = OTHER_KINDS.iter().any(|other| kind == *other || kind == format!("{other}s"));
            Err(if is_kind {
                wrong("a relay knows pods only; choose those of a workload by their labels, with -l")
            } else {
                wrong(&format!("its namespace is not the one of --namespace, {:?}", namespace.name))
            })
        }
        (Some(before), _) => Ok(PodKey::new(before, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_in_a_few_ways_and_never_misread() {
        let flag = Some(Namespace { name: "prod", from_flag: true });
        let variable = Some(Namespace { name: "prod", from_flag: false });
        for (text, namespace, expected) in [
            ("prod/web-0", None, Ok("prod/web-0")),
            ("prod/web-0", flag, Ok("prod/web-0")),
            ("web-0", flag, Ok("prod/web-0")),
            ("pod/web-0", flag, Ok("prod/web-0")),
            ("pods/web-0", variable, Ok("prod/web-0")),
            ("other/web-0", variable, Ok("other/web-0")),
            ("other/web-0", flag, Err("not the one of --namespace")),
            ("deployment/web", flag, Err("knows pods only")),
            ("deployments.apps/web", flag, Err("knows pods only")),
            ("pod/web-0", None, Err("in which namespace")),
            ("web-0", None, Err("write NAMESPACE/NAME")),
            ("", flag, Err("write NAMESPACE/NAME")),
            ("/web-0", flag, Err("write NAMESPACE/NAME")),
            ("prod/", flag, Err("write NAMESPACE/NAME")),
            ("prod/web/0", None, Err("write NAMESPACE/NAME")),
        ] {
            let key = pod_key(text, namespace);
            match (&key, expected) {
                (Ok(key), Ok(name)) => assert_eq!(format!("{}/{}", key.namespace(), key.name()), name),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
                _ => panic!("{text}: {key:?}"),
            }
        }
    }
}
