// @atproto/repo on what our PDS exports: whole repositories and proofs of single records, and that
// the library refuses them once they were tampered with. Standard input: the commits of client.mjs.
import assert from 'node:assert/strict'
import { text } from 'node:stream/consumers'
import { CID } from 'multiformats/cid'
import { readCarWithRoot, verifyProofs, verifyRecords, verifyRepo, verifyRepoCar } from '@atproto/repo'
import { bytes, city, idResolver, step } from './city.mjs'

const { did, commits } = JSON.parse(await text(process.stdin))
const keyOf = (who) => idResolver().did.resolveAtprotoKey(who)
const key = await keyOf(did)
const strangersKey = await keyOf(city.city.did)

const records = new Map() // path → CID, as the client left it
for (const op of commits.flatMap((c) => c.ops)) op.action === 'delete' ? records.delete(op.path) : records.set(op.path, op.cid)
const removed = commits.flatMap((c) => c.ops).filter((op) => op.action === 'delete').map((op) => op.path)
assert.ok(records.size > 0 && removed.length > 0)

const split = (path) => ({ collection: path.slice(0, path.indexOf('/')), rkey: path.slice(path.indexOf('/') + 1) })
const proofOf = ({ collection, rkey }) => bytes(`/xrpc/com.atproto.sync.getRecord?did=${did}&collection=${collection}&rkey=${rkey}`)

const car = await step('getRepo', () => bytes(`/xrpc/com.atproto.sync.getRepo?did=${did}`))

await step('verifyRepoCar and verifyRepo', async () => {
  const { creates, commit } = await verifyRepoCar(car, did, key)
  assert.deepEqual(new Map(creates.map((w) => [`${w.collection}/${w.rkey}`, String(w.cid)])), new Map([...records].sort()))
  assert.deepEqual([String(commit.cid), commit.rev], [commits.at(-1).commit, commits.at(-1).rev])
  const { root, blocks } = await readCarWithRoot(car)
  await verifyRepo(blocks, root, did, key)
})

await step('a repository under a stranger\'s key or DID is refused', async () => {
  await assert.rejects(verifyRepoCar(car, did, strangersKey), /Invalid signature/)
  await assert.rejects(verifyRepoCar(car, city.city.did, key), /Invalid repo did/)
})

await step('a repository with one changed byte is refused', async () => {
  const bent = Uint8Array.from(car)
  bent[bent.length - 1] ^= 1
  await assert.rejects(verifyRepoCar(bent, did, key))
})

for (const [path, cid] of records) {
  await step(`getRecord proves ${path}`, async () => {
    const at = split(path)
    const proof = await proofOf(at)
    const claim = { ...at, cid: CID.parse(cid) }
    const { verified, unverified } = await verifyProofs(proof, [claim], did, key)
    assert.deepEqual([verified.length, unverified.length], [1, 0])
    const carried = await verifyRecords(proof, did, key)
    assert.ok(carried.some((r) => r.collection === at.collection && r.rkey === at.rkey), 'the proof carries the record')
    const wrong = await verifyProofs(proof, [{ ...at, cid: CID.parse(commits[0].commit) }], did, key)
    assert.equal(wrong.verified.length, 0, 'another CID is not proved')
    await assert.rejects(verifyProofs(proof, [claim], did, strangersKey), /Invalid signature/)
  })
}

for (const path of removed) {
  await step(`getRecord proves that ${path} is gone`, async () => {
    const at = split(path)
    const { verified } = await verifyProofs(await proofOf(at), [{ ...at, cid: null }], did, key)
    assert.equal(verified.length, 1)
  })
}
console.error(`${records.size} records and ${removed.length} absences proved`)
