//! The examples in `--help`. A test takes them from there and runs them.

use clap::Command;

/// What each command shows, line by line.
const EXAMPLES: &[(&str, &str)] = &[
    ("demo", "relay demo --for 20s"),
    (
        "serve",
        "# A simulated cluster on 127.0.0.1:8080
relay serve
relay serve --source kube --watch-namespace prod
relay serve --store disk --data-dir data --tokens-file tokens",
    ),
    (
        "pods",
        "# As kubectl get pods -A
relay pods
relay pods -n prod -l app=web -o wide
relay pods -l 'app in (web,api),!canary' -o name
# Those that are not ready
relay pods --not-ready
# How many of each application are ready
relay pods --group-by app
# Through the API server
relay pods --kube-service relay-system/relay:8080",
    ),
    (
        "pod",
        "# NAMESPACE/NAME
relay pod \"$POD\"
relay pod \"$POD\" -o yaml",
    ),
    (
        "events",
        "# The last five minutes
relay events --since 5m
# Which pods are gone
relay events --since 1h --type DELETED -l app=web
# What happened to one, also when it is gone
relay events --pod \"$POD\"
relay events --order newest --max 20 -o json > events.json",
    ),
    (
        "stream",
        "# What the relay sends from now on, as it is
relay stream --latest --for 1m",
    ),
    (
        "state",
        "# The list, and then each change
relay state -l app=web
# A line per group that changed: ready 3/4
relay state --group-by app --for 10m",
    ),
    (
        "replay",
        "# Run it again: it goes on where it stopped
relay replay -l app=web --cursor-file web.cursor
# The last ten minutes, then end
relay replay --since 10m --exit-after-phase Live",
    ),
    (
        "wait",
        "# At least one pod with the label app is ready
relay wait -l app --for ready=1 --timeout 2m
relay wait \"$POD\" --for condition=Ready
# None is left
relay wait -l app=gone --for delete",
    ),
    ("store verify", "relay store verify --data-dir data"),
    (
        "store export",
        "relay store export --data-dir data --out log.jsonl
# What is good of a damaged log
relay store export --data-dir data --until-damage --out log.jsonl",
    ),
    ("store import", "relay store import --data-dir copy --from log.jsonl"),
    ("session", "relay session -o json"),
    (
        "health",
        "relay health
relay health -o json",
    ),
    (
        "sse",
        "# Any server of event streams
relay sse \"$RELAY_URL/events/stream\"
relay sse \"$RELAY_URL/events/stream\" --cursor-file sse.cursor -o json
relay sse \"$RELAY_URL/events/stream\" --event pod --data --max 10
relay sse \"$RELAY_URL/events/stream\" -H 'Accept-Language: en' -v",
    ),
    ("durable create", "relay durable create /app --content-type application/json"),
    (
        "durable append",
        "relay durable append /app --data '{\"n\":1}'
echo '{\"n\":2}' | relay durable append /app",
    ),
    ("durable head", "relay durable head /app"),
    (
        "durable read",
        "relay durable read /app
relay durable read /app -o json",
    ),
    (
        "durable tail",
        "relay durable tail /app --offset start --for 5s
relay durable tail /app --checkpoint app.checkpoint --out copy.log --for 5s
# The stream by its URL, until it is closed
relay durable tail URL | jq .level",
    ),
    (
        "durable produce",
        "# Run it again: nothing comes twice
relay durable produce /app --file app.jsonl --state jsonl.state
# A log that grows: once each, across restarts
tail -n +1 -F app.log | relay durable produce URL --state app.state
seq 3 | relay durable produce /numbers --create \\
    --content-type application/json",
    ),
    ("durable fork", "relay durable fork /app /app-fork"),
    ("durable close", "relay durable close /done"),
    ("durable delete", "relay durable delete /old"),
    (
        "durable serve",
        "# In memory, on 127.0.0.1:4437
relay durable serve
relay durable serve --dir streams",
    ),
    ("durable demo", "relay durable demo --for 5s"),
    ("autoconfig serve", "relay autoconfig serve environments.yaml"),
    (
        "autoconfig watch",
        "relay autoconfig watch --key any
relay autoconfig watch --key any --cache-file environments.cache --for 1h",
    ),
    ("autoconfig demo", "relay autoconfig demo --for 5s"),
    (
        "parsec serve",
        "# In memory, on 127.0.0.1:8080
relay parsec serve
relay parsec serve --data-dir channels --retain-age 1h
relay parsec serve --schemas schemas.json --validate strict",
    ),
    (
        "parsec publish",
        "echo '{\"text\":\"hi\"}' |
    relay parsec publish public:demo.chat --aspect said --producer me \\
    --sequence-file me.sequence
relay parsec publish public:demo.chat --aspect said --producer you \\
    --payload '{\"text\":\"hi\"}' \\
    --sequence-file you.sequence",
    ),
    (
        "parsec subscribe",
        "relay parsec subscribe public:demo.chat --from-start --for 10s
relay parsec subscribe public:demo.chat --from-start --max 1 -o json",
    ),
    ("parsec history", "relay parsec history public:demo.chat --limit 10"),
    ("parsec presence", "relay parsec presence public:demo.chat"),
    ("parsec schema list", "relay parsec schema list --schemas schemas.json"),
    ("parsec schema resolve", "relay parsec schema resolve public:demo.chat --schemas schemas.json"),
    (
        "parsec schema check",
        "echo '{\"text\":\"hi\"}' |
    relay parsec schema check public:demo.chat said --schemas schemas.json",
    ),
    (
        "bus serve",
        "relay bus serve --file objects.yaml
relay bus serve --file objects.yaml --max-deliver 5 \\
    --dead-letter http://127.0.0.1:9001/",
    ),
    (
        "bus send",
        "relay bus send --channel shop/orders --data hello
relay bus send --channel shop/orders < app.jsonl
seq 3 | relay bus send --channel shop/orders --lines",
    ),
    ("bus receive", "relay bus receive --reply thanks --max 10 --for 5s"),
    (
        "bus monitor",
        "relay bus monitor --file objects.yaml --for 5s
relay bus monitor --file objects.yaml --exec 'cat >> calls.jsonl' --for 5s",
    ),
    (
        "bus crds",
        "# Kubectl apply -f crds.yaml
relay bus crds --rbac > crds.yaml",
    ),
    ("bus demo", "relay bus demo --for 5s"),
    (
        "completions",
        "relay completions bash > relay.bash
relay completions zsh > _relay",
    ),
    ("man", "relay man manuals"),
];

/// The command and all below it, each with its examples.
pub(super) fn with_examples(command: Command) -> Command {
    below(command, "")
}

fn below(command: Command, path: &str) -> Command {
    command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
        let sub = match of(&path) {
            Some(lines) => sub.after_long_help(format!("Examples:\n  {}", lines.replace('\n', "\n  "))),
            None => sub,
        };
        below(sub, &path)
    })
}

/// The examples of a command, by its path.
pub(super) fn of(path: &str) -> Option<&'static str> {
    EXAMPLES.iter().find_map(|(name, lines)| (*name == path).then_some(*lines))
}

#[cfg(test)]
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    EXAMPLES.iter().map(|(name, _)| *name)
}
