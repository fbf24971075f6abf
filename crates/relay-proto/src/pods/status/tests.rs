use serde_json::{Value, json};

use super::*;
use crate::pods::{Pod, PodBuilder};

/// The state of a container, from a word or two.
fn state(text: &str) -> Value {
    let number = |text: &str| text.parse::<i32>().unwrap();
    match text.split_once(' ') {
        None if text == "none" => json!({}),
        None if text == "running" => json!({"running": {"startedAt": "2026-11-21T09:00:00Z"}}),
        None if text == "waiting" => json!({"waiting": {}}),
        Some(("waiting", reason)) => json!({"waiting": {"reason": reason}}),
        Some(("exit", code)) => json!({"terminated": {"exitCode": number(code)}}),
        Some(("signal", signal)) => json!({"terminated": {"exitCode": 128, "signal": number(signal)}}),
        Some(("ended", reason)) => {
            json!({"terminated": {"exitCode": i32::from(reason != "Completed"), "reason": reason}})
        }
        _ => panic!("{text}"),
    }
}

/// A container from `NAME STATE`, and after a comma each: `ready`, `started`, `xN` for restarts, and `@TIME` for the
/// end of the previous run. Times are minutes of one hour.
fn status(text: &str) -> Value {
    let mut parts = text.split(',');
    let (name, what) = parts.next().unwrap().split_once(' ').unwrap();
    let mut status =
        json!({"name": name, "image": "i", "ready": false, "restartCount": 0, "state": state(what)});
    for part in parts {
        match (part.strip_prefix('x'), part.strip_prefix('@')) {
            (Some(count), _) => status["restartCount"] = count.parse::<u32>().unwrap().into(),
            (_, Some("?")) => {
                status["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": null}})
            }
            (_, Some(minute)) => {
                let finished = format!("2026-11-21T09:{minute}:00Z");
                status["lastState"] =
                    json!({"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": finished}});
            }
            _ => status[part] = true.into(),
        }
    }
    status
}

/// A pod as the API server sends it. Containers whose name begins with `side` in the init list are sidecars.
struct Case<'a> {
    init: &'a [&'a str],
    app: &'a [&'a str],
    phase: &'a str,
    /// Words: conditions that are true, `deleting`, `gated`, `reason=R`, `no-status`, `more-init=N`.
    also: &'a str,
    expected: &'a str,
}

fn object(case: &Case<'_>) -> Value {
    let names = |statuses: &[&str]| -> Vec<String> {
        statuses.iter().map(|status| status.split(' ').next().unwrap().to_owned()).collect()
    };
    let init: Vec<Value> = names(case.init)
        .into_iter()
        .map(|name| match name.starts_with("side") {
            true => json!({"name": name, "image": "i", "restartPolicy": "Always"}),
            false => json!({"name": name, "image": "i"}),
        })
        .collect();
    let app: Vec<Value> =
        names(case.app).into_iter().map(|name| json!({"name": name, "image": "i"})).collect();
    let statuses = |all: &[&str]| all.iter().map(|text| status(text)).collect::<Vec<_>>();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "prod", "name": "web", "uid": "u"},
        "spec": {"containers": app, "initContainers": init},
        "status": {"phase": case.phase, "conditions": [], "containerStatuses": statuses(case.app), "initContainerStatuses": statuses(case.init)},
    });
    let mut conditions = Vec::new();
    for word in case.also.split_whitespace() {
        match word.split_once('=') {
            None if word == "deleting" => {
                pod["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z".into()
            }
            None if word == "gated" => conditions
                .push(json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"})),
            None if word == "no-status" => {
                pod["status"]["containerStatuses"] = Value::Null;
                pod["status"]["initContainerStatuses"] = Value::Null;
            }
            None => conditions.push(json!({"type": word, "status": "True"})),
            Some(("reason", reason)) => pod["status"]["reason"] = reason.into(),
            Some(("more-init", count)) => {
                for number in 0..count.parse::<u32>().unwrap() {
                    let more = json!({"name": format!("more-{number}"), "image": "i"});
                    pod["spec"]["initContainers"].as_array_mut().unwrap().push(more);
                }
            }
            Some(_) => panic!("{word}"),
        }
    }
    pod["status"]["conditions"] = conditions.into();
    pod
}

fn columns(printed: &Printed) -> String {
    let last = printed.last_restart.as_ref().map(|time| format!(" since {}", &time.as_str()[14..16]));
    let Printed { status, ready, containers, restarts, .. } = printed;
    format!("{status} {ready}/{containers} {restarts}{}", last.unwrap_or_default())
}

const fn case<'a>(
    init: &'a [&'a str],
    app: &'a [&'a str],
    phase: &'a str,
    also: &'a str,
    expected: &'a str,
) -> Case<'a> {
    Case { init, app, phase, also, expected }
}

/// The expected output was derived by hand from Kubernetes' rules, never by running this code.
const CASES: &[Case<'_>] = &[
    // Plain pods.
    case(&[], &["a running,ready"], "Running", "Ready Initialized", "Running 1/1 0"),
    case(&[], &["a running"], "Running", "Initialized", "Running 0/1 0"),
    case(&[], &["a running,ready,x3"], "Running", "Ready Initialized", "Running 1/1 3"),
    case(&[], &["a running,ready,x3", "b running,x4"], "Running", "Initialized", "Running 1/2 7"),
    case(&[], &["a none"], "Pending", "no-status", "Pending 0/1 0"),
    case(&[], &["a none"], "Pending", "gated no-status", "SchedulingGated 0/1 0"),
    case(&[], &["a none"], "Pending", "gated reason=Odd no-status", "SchedulingGated 0/1 0"),
    case(&[], &["a waiting ContainerCreating"], "Pending", "Initialized", "ContainerCreating 0/1 0"),
    case(&[], &["a waiting ImagePullBackOff"], "Pending", "Initialized", "ImagePullBackOff 0/1 0"),
    case(&[], &["a waiting ErrImagePull", "b running,ready"], "Pending", "Initialized", "ErrImagePull 1/2 0"),
    case(&[], &["a waiting CrashLoopBackOff,x12"], "Running", "Initialized", "CrashLoopBackOff 0/1 12"),
    case(&[], &["a waiting"], "Pending", "Initialized", "Pending 0/1 0"),
    case(&[], &["a none"], "Pending", "Initialized", "Pending 0/1 0"),
    case(&[], &["a waiting CreateContainerConfigError"], "Pending", "", "CreateContainerConfigError 0/1 0"),
    // Containers that have ended.
    case(&[], &["a ended Completed"], "Succeeded", "Initialized", "Completed 0/1 0"),
    case(&[], &["a ended Error"], "Failed", "Initialized", "Error 0/1 0"),
    case(&[], &["a ended OOMKilled,x2"], "Running", "Initialized", "OOMKilled 0/1 2"),
    case(&[], &["a exit 137"], "Failed", "Initialized", "ExitCode:137 0/1 0"),
    case(&[], &["a exit 0"], "Succeeded", "Initialized", "ExitCode:0 0/1 0"),
    case(&[], &["a signal 9"], "Failed", "Initialized", "Signal:9 0/1 0"),
    case(&[], &["a ended Completed", "b running,ready"], "Running", "Ready Initialized", "Running 1/2 0"),
    case(&[], &["a ended Completed", "b running,ready"], "Running", "Initialized", "NotReady 1/2 0"),
    case(&[], &["a running", "b ended Completed"], "Running", "Initialized", "Completed 0/2 0"),
    case(&[], &["a running,ready", "b ended Error,x1"], "Running", "Initialized", "Error 1/2 1"),
    case(&[], &["a ended Error", "b waiting CrashLoopBackOff"], "Running", "Initialized", "Error 0/2 0"),
    case(&[], &["b waiting CrashLoopBackOff", "a ended Error"], "Running", "", "CrashLoopBackOff 0/2 0"),
    case(&[], &["a none"], "Failed", "reason=Evicted no-status", "Evicted 0/1 0"),
    case(
        &[],
        &["a ended ContainerStatusUnknown"],
        "Failed",
        "reason=Evicted",
        "ContainerStatusUnknown 0/1 0",
    ),
    case(&[], &["a none"], "Failed", "reason=NodeAffinity no-status", "NodeAffinity 0/1 0"),
    case(&[], &["a running"], "Unknown", "", "Unknown 0/1 0"),
    // Deletion.
    case(&[], &["a running,ready,x1"], "Running", "Ready Initialized deleting", "Terminating 1/1 1"),
    case(&[], &["a running"], "Running", "deleting reason=NodeLost", "Unknown 0/1 0"),
    case(&[], &["a running"], "Running", "reason=NodeLost", "NodeLost 0/1 0"),
    case(&[], &["a ended Completed"], "Succeeded", "deleting", "Completed 0/1 0"),
    case(&[], &["a ended Error"], "Failed", "deleting", "Error 0/1 0"),
    case(
        &["i waiting CrashLoopBackOff,x9"],
        &["a waiting PodInitializing"],
        "Pending",
        "deleting",
        "Terminating 0/1 9",
    ),
    // Init containers.
    case(
        &["i waiting CrashLoopBackOff,x9"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:CrashLoopBackOff 0/1 9",
    ),
    case(&["i running"], &["a waiting PodInitializing"], "Pending", "", "Init:0/1 0/1 0"),
    case(
        &["i ended Completed,x2", "j running,x3"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:1/2 0/1 5",
    ),
    case(
        &["i running,x1", "j waiting PodInitializing,x7"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:0/2 0/1 1",
    ),
    case(&["i waiting PodInitializing"], &["a waiting PodInitializing"], "Pending", "", "Init:0/1 0/1 0"),
    case(&["i none"], &["a waiting PodInitializing"], "Pending", "", "Init:0/1 0/1 0"),
    case(&["i waiting"], &["a waiting PodInitializing"], "Pending", "more-init=2", "Init:0/3 0/1 0"),
    case(&["i none"], &["a none"], "Pending", "no-status", "Pending 0/1 0"),
    case(&["i ended Error,x4"], &["a waiting PodInitializing"], "Pending", "", "Init:Error 0/1 4"),
    case(&["i ended OOMKilled"], &["a waiting PodInitializing"], "Failed", "", "Init:OOMKilled 0/1 0"),
    case(&["i exit 3"], &["a waiting PodInitializing"], "Pending", "", "Init:ExitCode:3 0/1 0"),
    case(&["i signal 11"], &["a waiting PodInitializing"], "Pending", "", "Init:Signal:11 0/1 0"),
    case(&["i exit 0,x2"], &["a running,ready,x1"], "Running", "Ready Initialized", "Running 1/1 1"),
    case(
        &["i waiting ImagePullBackOff"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:ImagePullBackOff 0/1 0",
    ),
    case(
        &["i ended Completed"],
        &["a waiting PodInitializing"],
        "Pending",
        "Initialized",
        "PodInitializing 0/1 0",
    ),
    case(&["i running"], &["a ended Error,x1"], "Running", "", "Init:0/1 0/1 0"),
    // Sidecars.
    case(
        &["side running,ready,started"],
        &["a running,ready"],
        "Running",
        "Ready Initialized",
        "Running 2/2 0",
    ),
    case(&["side running,started,x2"], &["a running,ready,x1"], "Running", "Initialized", "Running 1/2 3"),
    case(
        &["i ended Completed,x5", "side running,ready,started,x2"],
        &["a running,ready,x1"],
        "Running",
        "Ready Initialized",
        "Running 2/2 3",
    ),
    case(&["side running"], &["a waiting PodInitializing"], "Pending", "", "Init:0/1 0/2 0"),
    case(
        &["side running,ready,started", "i running"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:1/2 1/2 0",
    ),
    case(
        &["side waiting CrashLoopBackOff,x6"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:CrashLoopBackOff 0/2 6",
    ),
    case(
        &["side waiting CrashLoopBackOff,x6"],
        &["a running,ready,x1"],
        "Running",
        "Initialized",
        "Init:CrashLoopBackOff 1/2 7",
    ),
    case(&["side ended Completed"], &["a ended Completed"], "Succeeded", "Initialized", "Completed 0/2 0"),
    case(&["side ended Error"], &["a ended Completed"], "Succeeded", "Initialized", "Completed 0/2 0"),
    case(&["side running"], &["a running,ready"], "Running", "Initialized", "Init:0/1 1/2 0"),
    case(
        &["side running", "side-2 running,x5"],
        &["a running,ready,x1"],
        "Running",
        "Initialized",
        "Init:0/2 1/3 1",
    ),
    // The age of the last restart.
    case(&[], &["a running,ready,x3,@10"], "Running", "Ready Initialized", "Running 1/1 3 since 10"),
    case(&[], &["a running,x1,@10", "b running,x1,@30"], "Running", "Initialized", "Running 0/2 2 since 30"),
    case(&[], &["a running,x1,@40", "b running,x1,@30"], "Running", "Initialized", "Running 0/2 2 since 40"),
    case(&[], &["a waiting CrashLoopBackOff,x7,@12"], "Running", "", "CrashLoopBackOff 0/1 7 since 12"),
    case(&[], &["a running,ready,@10"], "Running", "Ready Initialized", "Running 1/1 0"),
    case(&[], &["a running,ready,x2,@?"], "Running", "Ready Initialized", "Running 1/1 2"),
    case(&[], &["a ended Error,x2,@10"], "Failed", "deleting", "Error 0/1 2 since 10"),
    case(
        &["i waiting CrashLoopBackOff,x9,@15"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:CrashLoopBackOff 0/1 9 since 15",
    ),
    // A finished init container no longer counts, and neither does its time.
    case(&["i exit 0,x2,@50"], &["a running,ready,x1,@10"], "Running", "Ready", "Running 1/1 1 since 10"),
    case(&["i exit 0,x2,@50"], &["a running,ready"], "Running", "Ready", "Running 1/1 0"),
    case(
        &["i exit 0,x2,@50", "side running,ready,started,x1,@20"],
        &["a running,ready,x1,@10"],
        "Running",
        "Ready Initialized",
        "Running 2/2 2 since 20",
    ),
    case(
        &["i running,x1,@10", "j waiting PodInitializing,x7,@50"],
        &["a waiting PodInitializing"],
        "Pending",
        "",
        "Init:0/2 0/1 1 since 10",
    ),
];

#[test]
fn pods_read_as_kubectl_prints_them() {
    assert!(CASES.len() >= 40);
    let mut wrong = Vec::new();
    for case in CASES {
        let object = object(case).to_string();
        let pod = Pod::from_json(&object).unwrap();
        if columns(&pod.printed()) != case.expected {
            wrong.push(format!(
                "{} is printed, {} expected: {object}",
                columns(&pod.printed()),
                case.expected
            ));
        }
        let (status, (ready, containers)) = (pod.status(), pod.ready_containers());
        let alone = format!("{status} {ready}/{containers} {}", pod.restarts());
        assert!(columns(&pod.printed()).starts_with(&alone), "{alone}");
        // A reader of the relay's output gets the same.
        let flat = serde_json::to_string(&pod).unwrap();
        for read in
            [Pod::from_json(&flat).unwrap(), serde_json::from_str(&flat).unwrap(), pod.to_builder().build()]
        {
            assert_eq!(read, pod, "{flat}");
            assert_eq!(read.printed(), pod.printed(), "{flat}");
        }
        assert!(Pod::scan_whole(&flat).is_ok(), "{flat}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Most pods of a cluster need no additional field for this.
#[test]
fn what_is_printed_is_written_only_where_the_fields_do_not_tell() {
    let told = CASES.iter().filter(|case| {
        let pod = Pod::from_json(&object(case).to_string()).unwrap();
        !serde_json::to_string(&pod).unwrap().contains("\"printed\"")
    });
    assert!(told.clone().count() > CASES.len() / 2, "{}", told.count());
    let gated = object(&case(&[], &["a none"], "Pending", "gated no-status", ""));
    let flat = serde_json::to_string(&Pod::from_json(&gated.to_string()).unwrap()).unwrap();
    let printed = r#""printed":{"status":"SchedulingGated","ready":0,"containers":1,"restarts":0}}"#;
    assert!(flat.ends_with(printed), "{flat}");
    let pod = Pod::from_json(&flat).unwrap();
    assert_eq!(pod.status(), "SchedulingGated");
    assert_eq!(pod.to_builder().label("a", "b").build().status(), "SchedulingGated");
    assert_eq!(
        pod.to_builder().phase(Some("Running")).build().status(),
        "Running",
        "what was printed is past"
    );
    let other = Pod::from_json(&flat.replace("Gated", "Other")).unwrap();
    assert_ne!(pod, other);
}

#[test]
fn init_sidecar_and_ephemeral_containers_are_listed() {
    let mut object = object(&case(
        &["i ended Completed,x2", "side signal 9,x1"],
        &["a running,ready"],
        "Running",
        "Ready",
        "",
    ));
    object["status"]["initContainerStatuses"][1]["lastState"] = state("ended OOMKilled");
    object["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "d"}]);
    object["status"]["ephemeralContainerStatuses"] = json!([status("debug running")]);
    let pod = Pod::from_json(&object.to_string()).unwrap();
    let containers: Value = serde_json::from_str::<Value>(&pod.to_json()).unwrap()["containers"].take();
    let plain = |name: &str, image: &str, state: &str| json!({"name": name, "image": image, "ready": false, "restart_count": 0, "state": state, "reason": null, "exit_code": null});
    let with = |mut container: Value, more: Value| {
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    assert_eq!(
        containers,
        json!([
            with(
                plain("i", "i", "terminated"),
                json!({"kind": "init", "restart_count": 2, "reason": "Completed", "exit_code": 0})
            ),
            with(
                plain("side", "i", "terminated"),
                json!({
                    "kind": "sidecar", "restart_count": 1, "exit_code": 128, "signal": 9, "last_reason": "OOMKilled", "last_exit_code": 1
                })
            ),
            with(plain("a", "i", "running"), json!({"ready": true})),
            with(plain("debug", "d", "running"), json!({"kind": "ephemeral"})),
        ])
    );
    let kinds: Vec<_> = pod.containers().iter().map(|container| container.kind).collect();
    use ContainerKind::{App, Ephemeral, Init, Sidecar};
    assert_eq!(kinds, [Init, Sidecar, App, Ephemeral]);
    let newer = pod.to_json().replace("ephemeral", "transient");
    assert_eq!(Pod::from_json(&newer).unwrap().containers()[3].kind, ContainerKind::Unknown);
    assert_eq!(Pod::from_json(&newer).unwrap().ready_containers(), (0, 2), "until the sidecar has started");
}

#[test]
fn a_pod_that_is_being_deleted_is_not_ready() {
    let deleting = object(&case(&[], &["a running,ready"], "Running", "Ready deleting", ""));
    let flat = r#"{"namespace":"a","name":"b","ready":true,"deleted_at":"2026-11-21T10:00:00Z"}"#;
    for text in [deleting.to_string(), flat.to_owned(), flat.replace("deleted_at", "deletedAt")] {
        let pod = Pod::from_json(&text).unwrap();
        assert!(!pod.ready() && serde_json::to_string(&pod).unwrap().contains("\"ready\":false"), "{text}");
        assert!(!pod.to_builder().ready(true).build().ready());
        assert!(pod.to_builder().deleted_at(None).ready(true).build().ready());
    }
    let built =
        PodBuilder::new("a", "b").ready(true).deleted_at(Some(crate::time::Timestamp::new("x"))).build();
    assert!(!built.ready() && built.to_json().contains("\"ready\":false"));
}

#[test]
fn pods_of_an_older_relay_are_printed_from_what_they_say() {
    for (more, expected) in [
        ("", "Unknown 0/0 0"),
        (r#","phase":"Running""#, "Running 0/0 0"),
        (r#","phase":"","reason":"""#, "Unknown 0/0 0"),
        (
            r#","phase":"Running","containers":[{"name":"a","state":"running","ready":true,"restart_count":4294967295},{"name":"b","state":"running","restart_count":9}]"#,
            "Running 1/2 4294967295",
        ),
        (r#","phase":"Running","containers":[{"name":"a","state":"odd"},{"name":"b"}]"#, "Running 0/2 0"),
        (
            r#","phase":"Failed","containers":[{"name":"a","state":"terminated","exit_code":3}]"#,
            "ExitCode:3 0/1 0",
        ),
    ] {
        let pod = Pod::from_json(&format!(r#"{{"namespace":"a","name":"b"{more}}}"#)).unwrap();
        assert_eq!(columns(&pod.printed()), expected, "{more}");
    }
}
