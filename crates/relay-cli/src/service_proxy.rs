//! A relay behind a Kubernetes API server: a service, reached through the server's proxy.

use relay_kube::{Access, CallerSettings};
use relay_pods::Filter;
use relay_transport::{HttpClientBuilder, Outer};

use crate::exit::Usage;

/// A port of a service and its scheme: `NAMESPACE/NAME:PORT`, or `NAMESPACE/https:NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KubeService {
    namespace: String,
    /// `http:NAME:PORT`
    service: String,
}

impl KubeService {
    pub(crate) fn parse(text: &str) -> Result<Self, Usage> {
        let wrong = |rule: &str| {
            let text: String = text.chars().take(300).collect();
            Usage(format!("--kube-service {text:?}: {rule}"))
        };
        let form = "NAMESPACE/NAME:PORT, or NAMESPACE/https:NAME:PORT";
        let (namespace, service) = text.split_once('/').ok_or_else(|| wrong(form))?;
        let (scheme, name, port) = match service.split(':').collect::<Vec<_>>()[..] {
            [name, port] => ("http", name, port),
            [scheme @ ("http" | "https"), name, port] => (scheme, name, port),
            _ => return Err(wrong(form)),
        };
        if Filter::new().namespace(namespace).is_err() {
            return Err(wrong("a namespace is a DNS-1123 label"));
        }
        // The rule for names of services is stricter than that for namespaces; the rule for names of ports allows fewer
        // characters.
        if Filter::new().namespace(name).is_err() {
            return Err(wrong("the name of a service is a DNS label"));
        }
        let number = port.bytes().all(|byte| byte.is_ascii_digit());
        let known = if number {
            port.parse::<u16>().is_ok_and(|port| port > 0)
        } else {
            port.len() <= 15 && Filter::new().namespace(port).is_ok()
        };
        if !known {
            return Err(wrong("a port is 1 to 65535, or its name in the service"));
        }
        Ok(Self { namespace: namespace.into(), service: format!("{scheme}:{name}:{port}") })
    }

    /// The base URL of the service.
    pub(crate) fn url(&self, server: &str) -> String {
        let (server, Self { namespace, service }) = (server.trim_end_matches('/'), self);
        format!("{server}/api/v1/namespaces/{namespace}/services/{service}/proxy")
    }
}

/// Uses the authority and the credentials of the kubeconfig, unless they were `given` on the command line.
pub(crate) async fn apply(
    access: Access,
    given: CallerSettings,
    any_certificate: bool,
    http: HttpClientBuilder,
) -> anyhow::Result<(HttpClientBuilder, Outer)> {
    if access.skips_verification() && !any_certificate {
        return Err(Usage(format!(
            "cluster {:?} says insecure-skip-tls-verify: anybody could be its API server and take the credentials. To \
             go on all the same give --insecure-accept-any-certificate",
            access.cluster()
        ))
        .into());
    }
    let (http, authorization) = access.apply(http, given).await?;
    let outer = match authorization {
        None => Outer::Known,
        Some(said) if said.is_bearer() => Outer::Bearer(said.source().clone()),
        Some(said) => Outer::Header(said.source().clone()),
    };
    Ok((http, outer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_written_as_documented() {
        let prefix = "https://api:6443/k8s/api/v1/namespaces";
        for (text, url) in [
            ("relay-system/relay:8080", "relay-system/services/http:relay:8080/proxy"),
            ("a/https:relay:443", "a/services/https:relay:443/proxy"),
            ("a/http:relay:web", "a/services/http:relay:web/proxy"),
        ] {
            let service = KubeService::parse(text).unwrap();
            assert_eq!(service.url("https://api:6443/k8s/"), format!("{prefix}/{url}"), "{text}");
            assert_eq!(service.url("https://api:6443/k8s"), format!("{prefix}/{url}"), "{text}");
        }
        for bad in [
            "",
            "relay",
            "relay:8080",
            "a/relay",
            "a/relay:",
            "a/:8080",
            "/relay:8080",
            "a/relay:0",
            "a/relay:65536",
            "a/relay:80 80",
            "a/ftp:relay:21",
            "a/b/relay:8080",
            "A/relay:8080",
            "a/..:8080",
            "a/relay:8080/proxy",
            "a/http:http:relay:8080",
            "a/relay:8080?x=y",
        ] {
            let error = KubeService::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("--kube-service "), "{bad}: {error}");
        }
    }
}
