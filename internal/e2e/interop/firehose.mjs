// @atproto/sync's Firehose against our event stream: every commit of the whole city since its
// foundation is received and verified, and adds up to the repositories as they are served.
//
// It says "listening" once the stream runs, then reads from standard input the commits that
// client.mjs made in the meantime, and ends when all of them arrived.
import assert from 'node:assert/strict'
import { text } from 'node:stream/consumers'
import { Firehose } from '@atproto/sync'
import { readCarWithRoot, verifyRepoCar } from '@atproto/repo'
import { bytes, city, fail, idResolver, step } from './city.mjs'

const patience = 20_000 // milliseconds until an expected event counts as lost
const ids = idResolver()
const events = []
let wake = () => {}

const firehose = new Firehose({
  service: city.pds.replace('http', 'ws'),
  idResolver: ids,
  unauthenticatedCommits: false,
  unauthenticatedHandles: false,
  getCursor: () => events.at(-1)?.seq ?? 0,
  onError: (err) => fail(`firehose: ${err.message} (after seq ${events.at(-1)?.seq})`, err),
  handleEvent: (evt) => {
    if (events.length === 0) console.log('listening')
    events.push(evt)
    wake()
  },
})
firehose.start()

// until waits for events to make something true.
async function until(what, holds) {
  const late = AbortSignal.timeout(patience)
  while (!holds()) {
    await new Promise((next) => {
      wake = next
      late.onabort = next
    })
    assert.ok(!late.aborted || holds(), `${what} did not arrive in ${patience / 1000} s; last seq ${events.at(-1)?.seq}`)
  }
}

const isCommit = (evt) => ['create', 'update', 'delete'].includes(evt.event)
const isAtOrPast = (did, rev) => (evt) => evt.did === did && isCommit(evt) && evt.rev >= rev

const made = JSON.parse(await text(process.stdin))

await step('the commits of the client', async () => {
  const last = made.commits.at(-1).rev
  const ops = made.commits.at(-1).ops.length
  await until(`rev ${last} of ${made.did}`, () => events.filter(isAtOrPast(made.did, last)).length >= ops)
  const got = events
    .filter((evt) => evt.did === made.did && isCommit(evt))
    .map((evt) => ({ rev: evt.rev, commit: String(evt.commit), action: evt.event, path: `${evt.collection}/${evt.rkey}`, cid: evt.cid && String(evt.cid) }))
  const want = made.commits.flatMap(({ rev, commit, ops }) => ops.map((op) => ({ rev, commit, action: op.action, path: op.path, cid: op.cid })))
  const order = (list) => list.toSorted((a, b) => (a.rev + a.path < b.rev + b.path ? -1 : 1)) // within a commit the order is free
  assert.deepEqual(order(got), order(want))
})

await step('identity and account events', async () => {
  const of = (kind) => events.filter((evt) => evt.did === made.did && evt.event === kind)
  assert.deepEqual(of('identity').map((evt) => evt.handle), [made.handle], 'one identity event, with a handle that resolves back')
  assert.equal(of('identity')[0].didDocument.id, made.did)
  assert.deepEqual(of('account').map((evt) => [evt.active, evt.status]), [[true, undefined]])
  assert.ok(of('account')[0].seq < events.find((evt) => evt.did === made.did && isCommit(evt)).seq, 'the account is announced before its first write')
})

await step('sequence numbers', () => {
  for (let i = 1; i < events.length; i++) {
    assert.ok(events[i].seq >= events[i - 1].seq, `${events[i].seq} after ${events[i - 1].seq}`)
  }
})

// An operation that does not verify is dropped by the library without a word: the sum shows it.
const listed = await (await fetch(`${city.pds}/xrpc/com.atproto.sync.listRepos?limit=1000`)).json()
for (const { did } of listed.repos) {
  await step(`the stream adds up to the repository of ${did}`, async () => {
    const car = await bytes(`/xrpc/com.atproto.sync.getRepo?did=${did}`)
    const { root } = await readCarWithRoot(car)
    const { creates, commit } = await verifyRepoCar(car, did, await ids.did.resolveAtprotoKey(did))
    assert.equal(String(commit.cid), String(root))
    if (creates.length > 0) await until(`rev ${commit.rev}`, () => events.some(isAtOrPast(did, commit.rev)))
    const sum = new Map()
    for (const evt of events.filter((e) => e.did === did && isCommit(e) && e.rev <= commit.rev)) {
      const path = `${evt.collection}/${evt.rkey}`
      if (evt.event === 'delete') assert.ok(sum.delete(path), `${path} was there before its deletion`)
      else {
        assert.equal(sum.has(path), evt.event === 'update', `${evt.event} of ${path} at ${evt.rev}`)
        sum.set(path, String(evt.cid))
      }
    }
    assert.deepEqual(sum, new Map(creates.map((w) => [`${w.collection}/${w.rkey}`, String(w.cid)])))
  })
}

await step('commits under a stranger\'s key are refused', async () => {
  const stranger = idResolver()
  stranger.did.resolveAtprotoKey = () => ids.did.resolveAtprotoKey(city.city.did)
  const refusals = await new Promise((done) => {
    const refused = []
    const doubting = new Firehose({
      service: city.pds.replace('http', 'ws'),
      idResolver: stranger,
      excludeIdentity: true,
      excludeAccount: true,
      excludeSync: true,
      getCursor: () => events.find((evt) => evt.did === made.did).seq,
      handleEvent: (evt) => evt.did === made.did && fail(`${evt.event} of ${evt.uri} taken under the key of ${city.city.did}`),
      onError: (err) => err.event?.repo === made.did && refused.push(err.cause?.message) === made.commits.length && done(refused),
    })
    doubting.start()
  })
  for (const text of refusals) assert.match(text, /Invalid signature/)
})

const revs = new Set(events.filter(isCommit).map((evt) => evt.did + evt.rev))
console.error(`${events.length} events, ${revs.size} commits with ${events.filter(isCommit).length} operations, ${listed.repos.length} repositories`)
process.exit(0)
