// What the scripts share: the running city, its identities, and steps that say what went wrong.
// Every script gets the city's ready file as its first argument, says on standard error what it found,
// and ends with code 1 at the first thing that is wrong.
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { HandleResolver, IdResolver, MemoryCache } from '@atproto/identity'

export const city = JSON.parse(readFileSync(process.argv[2], 'utf8'))

// step runs one check; its name stands in front of whatever it throws.
export async function step(name, fn) {
  try {
    return await fn()
  } catch (err) {
    fail(`${name}: ${err?.error ? `${err.status} ${err.error}: ` : ''}${err?.message ?? err}`, err)
  }
}

export function fail(text, err) {
  console.error(`FAIL ${text}`)
  for (let cause = err?.cause; cause; cause = cause.cause) console.error(`  because: ${cause.message ?? cause}`)
  if (err?.stack) console.error(err.stack)
  process.exit(1)
}

// A handle is looked up at our own host only: no query leaves the machine.
class LoopbackHandles extends HandleResolver {
  resolve(handle) {
    return new Promise((resolve, reject) => {
      const ask = http.get(`${city.pds}/.well-known/atproto-did`, { headers: { host: handle } }, async (res) => {
        let text = ''
        for await (const part of res) text += part
        resolve(res.statusCode === 200 ? text.trim() : undefined)
      })
      ask.on('error', reject)
    })
  }
}

// The default fetch refuses loopback addresses.
export function idResolver() {
  const ids = new IdResolver({ plcUrl: city.plc, didCache: new MemoryCache(), fetch: globalThis.fetch })
  ids.handle = new LoopbackHandles({ fetch: globalThis.fetch })
  return ids
}

export async function bytes(path) {
  const res = await fetch(`${city.pds}${path}`)
  if (!res.ok) throw new Error(`${path}: ${res.status} ${await res.text()}`)
  return new Uint8Array(await res.arrayBuffer())
}
