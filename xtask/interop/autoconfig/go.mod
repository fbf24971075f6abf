module relay/xtask/interop/autoconfig

go 1.24

require github.com/launchdarkly/eventsource v1.11.0
