import { runConformanceTests } from "@durable-streams/server-conformance-tests"
runConformanceTests({ baseUrl: process.env.SERVER_URL, longPollTimeoutMs: 2000 })
