// The authors' server on a free port, in memory or in the given directory. Prints its URL, and ends when its standard
// input ends.
import { DurableStreamTestServer } from "@durable-streams/server"
const dataDir = process.argv[2]
const server = new DurableStreamTestServer({ port: 0, longPollTimeout: 500, ...(dataDir ? { dataDir } : {}) })
console.log(`URL ${await server.start()}`)
process.stdin.on("end", () => process.exit(0)).resume()
