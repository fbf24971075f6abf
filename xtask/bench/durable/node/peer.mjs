// One work of the TypeScript client: peer.mjs WORK URL COUNT. Prints the measurements as a JSON array.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

const [work, url, countText] = process.argv.slice(2)
const count = Number(countText)
const seconds = (began) => (performance.now() - began) / 1000

async function append() {
  const handle = await DurableStream.create({ url, contentType: "text/plain" })
  const message = "x".repeat(100)
  const times = []
  for (let at = 0; at < count; at++) {
    const began = performance.now()
    await handle.append(message)
    if (at > 0) times.push(performance.now() - began)
  }
  return times
}

async function produce(size) {
  const handle = await DurableStream.create({ url, contentType: "text/plain" })
  const message = new Uint8Array(size).fill(120)
  let failed
  const producer = new IdempotentProducer(handle, "bench", { onError: (error) => (failed = error) })
  const began = performance.now()
  for (let at = 0; at < count; at++) producer.append(message)
  await producer.flush()
  const took = seconds(began)
  if (failed) throw failed
  return [took]
}

async function json() {
  const began = performance.now()
  const answer = await stream({ url, offset: "-1", live: false })
  let found = 0
  for await (const message of answer.jsonStream()) found += message.n > 0 || message.n === 0 ? 1 : 0
  if (found !== count) throw new Error(`${found} messages`)
  return [seconds(began)]
}

async function bytes() {
  const began = performance.now()
  let found = 0
  let offset = "-1"
  let ended = false
  // A stream of bytes ends with the first response, which may be only a part of the data.
  while (!ended) {
    const answer = await stream({ url, offset, live: false })
    for await (const chunk of answer.bodyStream()) found += chunk.length
    ended = answer.upToDate
    offset = answer.offset
  }
  if (found !== count) throw new Error(`${found} bytes`)
  return [seconds(began)]
}

async function live(mode) {
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  const answer = await stream({ url, offset: "-1", live: mode })
  let heard
  answer.subscribeJson(async (batch) => {
    if (batch.items.length > 0) heard()
  })
  const times = []
  for (let n = 0; n < count; n++) {
    await new Promise((done) => setTimeout(done, 2))
    const reading = new Promise((done) => (heard = done))
    const began = performance.now()
    const posting = fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: `[${n}]`,
    })
    await reading
    if (n > 0) times.push(performance.now() - began)
    await (await posting).arrayBuffer()
  }
  return times
}

const works = {
  append,
  small: () => produce(100),
  large: () => produce(1 << 20),
  json,
  bytes,
  "live-sse": () => live("sse"),
  "live-long-poll": () => live("long-poll"),
}
console.log(JSON.stringify(await works[work]()))
process.exit(0)
