// An account with records and blobs moves from the reference PDS to ours and on to another reference PDS, by the methods that the official
// clients use. At each stage its repository, its blobs and every commit on our stream must verify under the key that its DID document names then.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { AtpAgent } from '@atproto/api'
import { cborDecode, cborDecodeMulti } from '@atproto/common'
import { readCarWithRoot, verifyCommitSig, verifyRepoCar, def } from '@atproto/repo'
import { city, fail, idResolver, step } from './city.mjs'

const password = 'migration-password-1'
const note = 'org.example.note'
const name = `m${Date.now().toString(36)}` // a city that is tried again has the last one's account still
const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==', 'base64')
const json = { encoding: 'application/json' }
const ids = idResolver()
const keyOf = (did) => ids.did.resolveAtprotoKey(did, true)

// reference starts the published PDS; its mails come on its standard output.
async function reference() {
  const child = spawn(process.execPath, ['reference.mjs', city.plc], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const { value: url } = await lines.next()
  assert.ok(url, 'the reference PDS did not start')
  return {
    url,
    mail: async () => JSON.parse((await lines.next()).value),
    stop: () => new Promise((resolve) => {
      child.once('exit', resolve)
      child.stdin.end()
    }),
  }
}

async function signIn(url, identifier) {
  const agent = new AtpAgent({ service: url })
  await agent.login({ identifier, password })
  return agent
}

// frames are our stream's, as they come.
const frames = []
function listen() {
  const socket = new WebSocket(`${city.pds.replace('http', 'ws')}/xrpc/com.atproto.sync.subscribeRepos`)
  socket.binaryType = 'arraybuffer'
  socket.onmessage = ({ data }) => {
    const [header, body] = cborDecodeMulti(new Uint8Array(data))
    assert.equal(header.op, 1, `error frame: ${JSON.stringify(body)}`)
    frames.push({ ...body, kind: header.t })
  }
  return new Promise((resolve, reject) => {
    socket.onopen = () => resolve(socket)
    socket.onerror = reject
  })
}

const until = async (what, holds) => {
  for (let i = 0; !holds(); i++) {
    assert.ok(i < 200, `${what} did not come`)
    await new Promise((next) => setTimeout(next, 50))
  }
}

async function commitIn(frame) {
  const { root, blocks } = await readCarWithRoot(frame.blocks)
  return { root, commit: def.commit.schema.parse(cborDecode(blocks.get(root))) }
}

// everything that an account holds at a host, checked against the key of its document.
async function holdings(url, did, key) {
  const get = async (path) => {
    const res = await fetch(`${url}/xrpc/${path}`)
    assert.equal(res.status, 200, `${path}: ${res.status}`)
    return new Uint8Array(await res.arrayBuffer())
  }
  const { creates } = await verifyRepoCar(await get(`com.atproto.sync.getRepo?did=${did}`), did, key)
  const records = new Map(creates.map((w) => [`${w.collection}/${w.rkey}`, String(w.cid)]).sort())
  const { cids } = JSON.parse(Buffer.from(await get(`com.atproto.sync.listBlobs?did=${did}`)))
  const blobs = new Map()
  for (const cid of cids.sort()) blobs.set(cid, Buffer.from(await get(`com.atproto.sync.getBlob?did=${did}&cid=${cid}`)).toString('base64'))
  return { records, blobs }
}

// move brings an account to another host with all it has, and answers with its session there. token gives the confirmation of the operation.
async function move({ from, to, handle, email, inviteCode, token, fresh }) {
  const did = from.session.did
  const { data: host } = await new AtpAgent({ service: to }).com.atproto.server.describeServer()
  const { data: pass } = await from.com.atproto.server.getServiceAuth({ aud: host.did, lxm: 'com.atproto.server.createAccount' })
  const there = new AtpAgent({ service: to })
  const { data: made } = await there.com.atproto.server.createAccount(
    { did, handle, email, password, inviteCode }, { ...json, headers: { authorization: `Bearer ${pass.token}` } })
  await there.resumeSession({ ...made, active: false })
  assert.equal(made.did, did)

  const { data: car } = await from.com.atproto.sync.getRepo({ did })
  await there.com.atproto.repo.importRepo(car, { encoding: 'application/vnd.ipld.car' })
  let moved = 0
  for (let cursor; ;) {
    const { data: missing } = await there.com.atproto.repo.listMissingBlobs({ limit: 2, cursor })
    for (const { cid } of missing.blobs) {
      const { data: blob, headers } = await from.com.atproto.sync.getBlob({ did, cid })
      const { data: kept } = await there.com.atproto.repo.uploadBlob(blob, { encoding: headers['content-type'] })
      assert.equal(String(kept.blob.ref), cid)
      moved++
    }
    cursor = missing.cursor
    if (!cursor) break
  }
  const { data: before } = await there.com.atproto.server.checkAccountStatus()
  assert.equal(before.activated, false)
  assert.equal(before.importedBlobs, before.expectedBlobs)
  assert.equal(before.importedBlobs, moved)

  const { data: credentials } = await there.com.atproto.identity.getRecommendedDidCredentials()
  const { data: signed } = await from.com.atproto.identity.signPlcOperation({ token: await token(from), ...credentials })
  await there.com.atproto.identity.submitPlcOperation({ operation: signed.operation })
  assert.equal((await there.com.atproto.server.checkAccountStatus()).data.validDid, true)
  await there.com.atproto.server.activateAccount()
  await from.com.atproto.server.deactivateAccount({})
  if (fresh) await fresh(there)
  return there
}

const mailed = (host) => async (agent) => {
  await agent.com.atproto.identity.requestPlcOperationSignature()
  const { html } = await host.mail()
  const code = /\b[A-Z2-7]{5}-[A-Z2-7]{5}\b/.exec(html.replace(/<[^>]*>/g, ' '))
  assert.ok(code, 'the mail has a code')
  return code[0]
}

const socket = await step('our stream', listen)
const first = await step('the reference PDS starts', reference)
const second = await step('and another one', reference)
try {
  const agent = new AtpAgent({ service: first.url })
  await step('an account lives on the reference', async () => {
    await agent.createAccount({ handle: `${name}.test`, email: 'mover@example.org', password })
    const write = (n) => ({ $type: 'com.atproto.repo.applyWrites#create', collection: note, rkey: `n${String(n).padStart(4, '0')}`, value: { $type: note, n } })
    for (let n = 0; n < 300; n += 100) {
      await agent.com.atproto.repo.applyWrites({ repo: agent.did, validate: false, writes: Array.from({ length: 100 }, (_, i) => write(n + i)) })
    }
    await agent.com.atproto.repo.deleteRecord({ repo: agent.did, collection: note, rkey: 'n0007' })
    for (const [i, blob] of [png, Buffer.concat([png, Buffer.from('another')]), Buffer.from('plain words')].entries()) {
      const { data } = await agent.com.atproto.repo.uploadBlob(blob, { encoding: i < 2 ? 'image/png' : 'text/plain' })
      await agent.com.atproto.repo.createRecord({ repo: agent.did, collection: note, rkey: `blob${i}`, validate: false, record: { $type: note, file: data.blob } })
    }
  })
  const did = agent.did
  const start = await step('what it holds there', async () => holdings(first.url, did, await keyOf(did)))
  assert.deepEqual([start.records.size, start.blobs.size], [302, 3])
  const oldKey = await keyOf(did)

  const ours = await step('it moves to us', async () => {
    const authorization = `Basic ${Buffer.from(`admin:${city.adminPassword}`).toString('base64')}`
    const invite = await new AtpAgent({ service: city.pds }).com.atproto.server.createInviteCode({ useCount: 1 }, { ...json, headers: { authorization } })
    return move({ from: agent, to: city.pds, handle: `${name}.test`, inviteCode: invite.data.code, token: mailed(first) })
  })
  const key = await keyOf(did)
  assert.notEqual(key, oldKey)
  const mine = () => frames.filter((f) => (f.did ?? f.repo) === did)

  await step('our stream tells it under the new key alone', async () => {
    await until('#sync', () => mine().some((f) => f.kind === '#sync'))
    assert.deepEqual(mine().map((f) => f.kind), ['#identity', '#account', '#commit', '#sync'])
    const [, account, commit, sync] = mine()
    assert.equal(account.active, true)
    for (const frame of [commit, sync]) {
      const inside = await commitIn(frame)
      assert.equal(inside.commit.did, did)
      assert.equal(inside.commit.rev, frame.rev)
      assert.ok(await verifyCommitSig(inside.commit, key), `${frame.kind} is signed by the document's key`)
    }
    assert.equal(sync.rev, commit.rev)
    assert.equal(String(commit.prevData), String((await commitIn(commit)).commit.data), 'the first commit of ours changes nothing')
  })
  await step('it holds with us what it held', async () => {
    assert.deepEqual(await holdings(city.pds, did, key), start)
  })
  await step('it writes with us', async () => {
    const before = frames.length
    await ours.com.atproto.repo.createRecord({ repo: did, collection: note, rkey: 'with-us', record: { $type: note, at: 'home' } })
    await ours.com.atproto.repo.deleteRecord({ repo: did, collection: note, rkey: 'blob2' })
    await until('two commits', () => frames.length >= before + 2)
    let data = (await commitIn(frames[before - 1])).commit.data
    for (const frame of frames.slice(before)) {
      const { commit } = await commitIn(frame)
      assert.ok(await verifyCommitSig(commit, key))
      assert.equal(String(frame.prevData), String(data), 'each commit follows the one before')
      data = commit.data
    }
  })
  const middle = await holdings(city.pds, did, key)
  assert.deepEqual([middle.records.size, middle.blobs.size], [302, 2])

  await step('it moves on to the reference', async () => {
    const there = await move({
      from: ours, to: second.url, handle: `${name}-again.test`, email: 'mover@example.org',
      token: async () => password, // the account has no address with us
    })
    // The reference re-signs with the first write only.
    await there.com.atproto.repo.createRecord({ repo: did, collection: note, rkey: 'back', validate: false, record: { $type: note, at: 'back' } })
    const held = await holdings(second.url, did, await keyOf(did))
    held.records.delete(`${note}/back`)
    assert.deepEqual(held, middle)
    await until('#account', () => mine().at(-1).kind === '#account')
    assert.deepEqual([mine().at(-1).active, mine().at(-1).status], [false, 'deactivated'])
  })
  console.error(`an account of ${start.records.size} records and ${start.blobs.size} blobs moved in and out`)
} catch (err) {
  fail(err.message, err)
} finally {
  socket.close()
  await Promise.all([first.stop(), second.stop()])
}
