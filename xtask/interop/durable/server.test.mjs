import { runConformanceTests } from "@durable-streams/server-conformance-tests"
runConformanceTests({ baseUrl: process.env.BASE_URL, longPollTimeoutMs: 2000 })
