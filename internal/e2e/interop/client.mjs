// @atproto/api against our PDS: an account's whole life. Standard output is one JSON object, the
// commits that the account made, for firehose.mjs and repo.mjs to find again.
import assert from 'node:assert/strict'
import { AtpAgent, BlobRef, XRPCError } from '@atproto/api'
import { verifyJwt } from '@atproto/xrpc-server'
import { bytes, city, idResolver, step } from './city.mjs'

const handle = 'interop.test'
const password = 'interop-password-1'
const declaration = 'org.city-sync.actor.declaration'
const proof = 'org.city-sync.work.proof'
const note = 'org.example.note' // no schema of it is known to our PDS
const createdAt = '2027-01-05T17:00:00.000Z'
const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64')

const commits = [] // {rev, commit, ops: [{action, path, cid}]}
function wrote(commit, ...ops) {
  assert.ok(commit?.rev && commit.cid, 'the answer names the commit')
  assert.ok(commits.length === 0 || commit.rev > commits.at(-1).rev, 'revisions rise')
  commits.push({ rev: commit.rev, commit: commit.cid, ops })
}

async function refused(name, call) {
  const err = await call.then((res) => assert.fail(`expected ${name}, was taken: ${JSON.stringify(res.data)}`), (e) => e)
  assert.ok(err instanceof XRPCError, `expected ${name}: ${err}`)
  assert.equal(err.error, name, `error name (${err.status} ${err.message})`)
  assert.ok(err.status >= 400 && err.status < 500, `${name} is the client's fault, not ${err.status}`)
}

const agent = new AtpAgent({ service: city.pds })
const { repo, server, identity, sync } = agent.com.atproto

await step('createAccount', async () => {
  await refused('InvalidInviteCode', new AtpAgent({ service: city.pds }).createAccount({ handle, password, inviteCode: 'no-such-code' }))
  const authorization = `Basic ${Buffer.from(`admin:${city.adminPassword}`).toString('base64')}`
  const invite = await server.createInviteCode({ useCount: 1 }, { headers: { authorization }, encoding: 'application/json' })
  const fresh = new AtpAgent({ service: city.pds })
  await fresh.createAccount({ handle, password, email: 'interop@example.org', inviteCode: invite.data.code })
  assert.equal(fresh.session.handle, handle)
})

await step('sign in', async () => {
  await refused('AuthenticationRequired', agent.login({ identifier: handle, password: 'wrong' }))
  await refused('AuthenticationRequired', agent.login({ identifier: 'nobody.test', password }))
  await agent.login({ identifier: handle, password })
  assert.equal(agent.session.handle, handle)
  assert.equal(agent.session.active, true)
  assert.equal(agent.pdsUrl?.origin, city.pds, 'the DID document of the answer names our host')
  const { data } = await server.getSession()
  assert.equal(data.did, agent.did)
  assert.equal(data.email, 'interop@example.org')
})
const did = agent.did

await step('refresh and resume the session', async () => {
  const before = { ...agent.session }
  await agent.sessionManager.refreshSession()
  assert.notEqual(agent.session.refreshJwt, before.refreshJwt)
  await server.getSession()
  const other = new AtpAgent({ service: city.pds })
  await other.resumeSession(agent.session)
  assert.equal(other.did, did)
})

await step('an expired access token is renewed on the way', async () => {
  const closed = new AtpAgent({ service: city.pds })
  await closed.login({ identifier: handle, password })
  const { accessJwt } = closed.session
  await closed.logout()
  agent.sessionManager.session = { ...agent.session, accessJwt }
  assert.equal((await server.getSession()).data.did, did)
  assert.notEqual(agent.session.accessJwt, accessJwt)
})

await step('resolveHandle', async () => {
  assert.equal((await identity.resolveHandle({ handle })).data.did, did)
  await refused('HandleNotFound', identity.resolveHandle({ handle: 'nobody.test' }))
})

await step('getServiceAuth', async () => {
  const lxm = 'org.city-sync.ledger.getBalance'
  const { data } = await server.getServiceAuth({ aud: city.ledgerDid, lxm })
  const claims = await verifyJwt(data.token, city.ledgerDid, lxm, (iss, fresh) => idResolver().did.resolveAtprotoKey(iss, fresh))
  assert.equal(claims.iss, did)
})

await step('calls to other services go through our PDS', async () => {
  const ask = async (a, path, headers) => {
    const res = await a.fetchHandler(`/xrpc/${path}`, { method: 'GET', headers })
    return { status: res.status, body: await res.json() }
  }
  const through = (service, target) => agent.withProxy(service, target)
  const profile = `org.city-sync.actor.getCity?city=${city.city.did}`
  const named = await ask(through('citysync_appview', city.appviewDid), profile)
  assert.equal(named.status, 200, JSON.stringify(named.body))
  assert.deepEqual((await ask(agent, profile)).body, named.body, 'the AppView is asked where the client names nobody')
  // The ledger has verified the token before it says that this account is no resident's.
  const balance = await ask(through('citysync_ledger', city.ledgerDid), 'org.city-sync.ledger.getBalance')
  assert.equal(balance.body.error, 'NotActivated', JSON.stringify(balance))
  const nobody = await ask(through('citysync_ledger', city.appviewDid), 'org.city-sync.ledger.getBalance')
  assert.deepEqual([nobody.status, nobody.body.error], [400, 'InvalidRequest'], 'the AppView has no such service')
  const itself = await ask(through('atproto_pds', did), 'org.city-sync.ledger.getBalance')
  assert.deepEqual([itself.status, itself.body.error], [400, 'InvalidRequest'], 'a circle')
  const anonymous = await fetch(`${city.pds}/xrpc/${profile}`, { headers: { 'atproto-proxy': `${city.appviewDid}#citysync_appview` } })
  assert.equal(anonymous.status, 401)
})

const declared = { $type: declaration, cities: [city.city.did], createdAt }
const self = { repo: did, collection: declaration, rkey: 'self' }
let current // the CID of the declaration

await step('createRecord', async () => {
  const { data } = await repo.createRecord({ ...self, record: declared })
  assert.equal(data.uri, `at://${did}/${declaration}/self`)
  assert.equal(data.validationStatus, 'valid')
  current = data.cid
  wrote(data.commit, { action: 'create', path: `${declaration}/self`, cid: data.cid })
  const read = await repo.getRecord(self)
  assert.deepEqual(read.data, { uri: data.uri, cid: data.cid, value: declared })
})

await step('createRecord refusals', async () => {
  await refused('RecordAlreadyExists', repo.createRecord({ ...self, record: declared }))
  await refused('InvalidRecord', repo.createRecord({ ...self, rkey: 'other', record: declared }))
  await refused('InvalidRecord', repo.createRecord({ ...self, rkey: 'self', record: { $type: declaration } }))
  await refused('InvalidRequest', repo.createRecord({ repo: did, collection: note, validate: true, record: { $type: note } }))
  await refused('InvalidRequest', repo.createRecord({ repo: did, collection: 'nonsense', record: declared }))
  await refused('RecordNotFound', repo.getRecord({ repo: did, collection: declaration, rkey: 'other' }))
  await refused('RepoNotFound', repo.describeRepo({ repo: 'nobody.test' }))
  const anonymous = new AtpAgent({ service: city.pds }).com.atproto
  await refused('AuthMissing', anonymous.repo.createRecord({ ...self, record: declared }))
  await refused('Forbidden', repo.createRecord({ ...self, repo: city.city.did, record: declared }))
})

await step('putRecord', async () => {
  const record = { ...declared, createdAt: '2027-01-06T17:00:00.000Z' }
  await refused('InvalidSwap', repo.putRecord({ ...self, record, swapRecord: null }))
  await refused('InvalidSwap', repo.putRecord({ ...self, record, swapCommit: current }))
  const { data } = await repo.putRecord({ ...self, record, swapRecord: current, swapCommit: commits.at(-1).commit })
  assert.notEqual(data.cid, current)
  wrote(data.commit, { action: 'update', path: `${declaration}/self`, cid: data.cid })
  const again = await repo.putRecord({ ...self, record })
  assert.equal(again.data.commit, undefined, 'the same content makes no commit')
  current = data.cid
})

await step('uploadBlob and a record that refers to it', async () => {
  const { data: up } = await repo.uploadBlob(png, { encoding: 'image/png' })
  assert.ok(up.blob instanceof BlobRef)
  assert.deepEqual([up.blob.mimeType, up.blob.size], ['image/png', png.length])
  const cid = up.blob.ref.toString()
  await refused('BlobNotFound', sync.getBlob({ did, cid })) // until a record refers to it
  const rkey = 'qzvsnqjye3np6fgkfln5vcw4yl'
  const ref = (what) => ({ uri: `at://${did}/org.city-sync.work.${what}/${rkey}`, cid: current })
  const evidence = [{ $type: 'org.city-sync.defs#media', blob: up.blob, alt: 'A set table' }]
  const record = { $type: proof, claim: ref('claim'), task: ref('task'), minutes: 60, evidence, createdAt }
  const { data } = await repo.createRecord({ repo: did, collection: proof, rkey, record })
  wrote(data.commit, { action: 'create', path: `${proof}/${rkey}`, cid: data.cid })
  const read = await repo.getRecord({ repo: did, collection: proof, rkey })
  assert.ok(read.data.value.evidence[0].blob.ref.equals(up.blob.ref), 'the blob reference comes back')
  const kept = await sync.getBlob({ did, cid })
  assert.deepEqual(Buffer.from(kept.data), png)
  assert.deepEqual((await sync.listBlobs({ did })).data.cids, [cid])

  // A remark in a picture goes unless its owner keeps it.
  const remark = Buffer.from('AAAADHRFWHRDb21tZW50AGhlcmW3AQID', 'base64')
  const remarked = Buffer.concat([png.subarray(0, 33), remark, png.subarray(33)])
  assert.equal((await repo.uploadBlob(remarked, { encoding: 'image/png' })).data.blob.ref.toString(), cid)
  const whole = await repo.uploadBlob(remarked, { encoding: 'image/png', headers: { 'x-keep-metadata': 'true' } })
  assert.equal(whole.data.blob.size, remarked.length)
  await refused('InvalidBlob', repo.uploadBlob(png.subarray(0, 40), { encoding: 'image/png' }))
})

await step('applyWrites', async () => {
  const write = (kind, rest) => ({ $type: `com.atproto.repo.applyWrites#${kind}`, collection: note, ...rest })
  const value = (text) => ({ $type: note, text, createdAt })
  const first = await repo.applyWrites({
    repo: did,
    swapCommit: commits.at(-1).commit,
    writes: ['a', 'b', 'c', 'd'].map((rkey) => write('create', { rkey, value: value(`note ${rkey}`) })),
  })
  const ops = first.data.results.map((r, i) => ({ action: 'create', path: `${note}/${'abcd'[i]}`, cid: r.cid }))
  assert.deepEqual(first.data.results.map((r) => r.validationStatus), Array(4).fill('unknown'))
  wrote(first.data.commit, ...ops)

  const mixed = [write('create', { rkey: 'e', value: value('é ☂ 市') }), write('update', { rkey: 'a', value: value('again') }), write('delete', { rkey: 'b' })]
  await refused('InvalidSwap', repo.applyWrites({ repo: did, writes: mixed, swapCommit: commits[0].commit }))
  await refused('RecordNotFound', repo.applyWrites({ repo: did, writes: [...mixed, write('update', { rkey: 'z', value: value('z') })] }))
  await refused('RecordAlreadyExists', repo.applyWrites({ repo: did, writes: [...mixed, write('create', { rkey: 'c', value: value('c') })] }))
  const second = await repo.applyWrites({ repo: did, writes: mixed })
  const [e, a] = second.data.results
  wrote(
    second.data.commit,
    { action: 'create', path: `${note}/e`, cid: e.cid },
    { action: 'update', path: `${note}/a`, cid: a.cid },
    { action: 'delete', path: `${note}/b` },
  )
  assert.equal((await repo.getRecord({ repo: did, collection: note, rkey: 'e' })).data.value.text, 'é ☂ 市')
})

await step('deleteRecord', async () => {
  const gone = { repo: did, collection: note, rkey: 'c' }
  await refused('InvalidSwap', repo.deleteRecord({ ...gone, swapRecord: current }))
  const { data } = await repo.deleteRecord(gone)
  wrote(data.commit, { action: 'delete', path: `${note}/c` })
  await refused('RecordNotFound', repo.getRecord(gone))
  assert.equal((await repo.deleteRecord(gone)).data.commit, undefined, 'nothing is there to delete')
})

await step('listRecords', async () => {
  const keys = []
  let cursor
  do {
    const { data } = await repo.listRecords({ repo: handle, collection: note, limit: 1, reverse: true, cursor })
    keys.push(...data.records.map((r) => r.uri.split('/').at(-1)))
    cursor = data.cursor
  } while (cursor && keys.length < 10)
  assert.deepEqual(keys, ['a', 'd', 'e'])
  const { data } = await repo.listRecords({ repo: did, collection: note })
  assert.deepEqual(data.records.map((r) => r.uri.split('/').at(-1)), ['e', 'd', 'a'], 'newest first')
})

await step('describeRepo', async () => {
  const { data } = await repo.describeRepo({ repo: handle })
  assert.deepEqual([data.did, data.handle, data.handleIsCorrect], [did, handle, true])
  assert.deepEqual(data.collections.sort(), [declaration, proof, note].sort())
  assert.equal(data.didDoc.id, did)
})

await step('getLatestCommit and getRepoStatus', async () => {
  const last = commits.at(-1)
  assert.deepEqual((await sync.getLatestCommit({ did })).data, { cid: last.commit, rev: last.rev })
  assert.deepEqual((await sync.getRepoStatus({ did })).data, { did, active: true, rev: last.rev })
  assert.ok((await bytes(`/xrpc/com.atproto.sync.getRepo?did=${did}`)).length > 0)
})

await step('deleteSession', async () => {
  const { accessJwt, refreshJwt } = agent.session
  await agent.logout()
  assert.equal(agent.session, undefined)
  const bearing = (jwt) => ({ headers: { authorization: `Bearer ${jwt}` } })
  await refused('ExpiredToken', server.getSession({}, bearing(accessJwt)))
  await refused('ExpiredToken', server.refreshSession(undefined, bearing(refreshJwt)))
  await refused('InvalidToken', server.getSession({}, bearing('not.a.token')))
})

console.error(`${commits.length} commits of ${handle}`)
console.log(JSON.stringify({ did, handle, commits }))
