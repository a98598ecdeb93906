// Every method that our PDS serves, asked by @atproto/api: one line for what it is for and one for each thing that it refuses, with the status
// and name of the refusal. At the end the lines are held against the table in the PDS's README: a method without both is missing here.
// Arguments: the city's ready file, the address where letters lie, the README, the folder of our lexicons.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { AtpAgent, XRPCError, schemas } from '@atproto/api'
import { cborDecode } from '@atproto/common'
import { readCarWithRoot } from '@atproto/repo'
import { city, fail, step } from './city.mjs'

const [, , , letters, readme, lexicons] = process.argv
let status // of the last answer, as it came: the client has names for few
const agent = new AtpAgent({
  service: city.pds,
  fetch: async (...request) => {
    const res = await fetch(...request)
    status = res.status
    return res
  },
})
const kinds = new Map(schemas.map((doc) => [doc.id, doc.defs.main?.type]))
for (const name of readdirSync(`${lexicons}/org/city-sync/pds`)) {
  const doc = JSON.parse(readFileSync(`${lexicons}/org/city-sync/pds/${name}`, 'utf8'))
  if (!kinds.has(doc.id)) agent.lex.add(doc)
  kinds.set(doc.id, doc.defs.main?.type)
}
const full = (method) => (method.split('.').length > 2 ? method : `com.atproto.${method}`)

// Who asks: an Authorization header.
const bearer = (token) => `Bearer ${token}`
const nobody = undefined
const operator = `Basic ${Buffer.from(`admin:${city.adminPassword}`).toString('base64')}`
const stranger = `Basic ${Buffer.from('admin:guess').toString('base64')}`

const served = new Set()
const refusing = new Set()

async function ask(method, who, input, encoding = 'application/json') {
  const nsid = full(method)
  const headers = who ? { authorization: who } : {}
  if (kinds.get(nsid) === 'query') return (await agent.call(nsid, input, undefined, { headers })).data
  return (await agent.call(nsid, undefined, input, { headers, encoding: input === undefined ? undefined : encoding })).data
}

const ok = (method, who, input, encoding) =>
  step(method, async () => {
    const data = await ask(method, who, input, encoding)
    served.add(full(method))
    return data
  })

const wrong = [] // refusals that are none, or others

async function no(method, who, input, ...expected) {
  const [wanted, name, encoding] = expected
  const err = await ask(method, who, input, encoding).then((data) => new Error(`answered ${JSON.stringify(data)}`), (e) => e)
  const have = err instanceof XRPCError ? `${status} ${err.error}` : 'nothing'
  if (have !== `${wanted} ${name}`) wrong.push(`${method} refused by ${have}, not by ${wanted} ${name}: ${err.message}`)
  refusing.add(full(method))
}

const code = (to) =>
  step(`a letter to ${to}`, async () => {
    for (let i = 0; i < 100; i++) {
      const res = await fetch(`${letters}?to=${encodeURIComponent(to)}`)
      if (res.ok) return /\b[A-Z2-7]{5}-[A-Z2-7]{5}\b/.exec(await res.text())[0]
      await new Promise((next) => setTimeout(next, 50))
    }
    assert.fail('did not come')
  })

const AUTH = [401, 'AuthMissing']
const OPERATOR = [401, 'AuthenticationRequired']
const BAD = [400, 'InvalidRequest']
const GONE = [400, 'RepoNotFound']
const NOBODY = 'did:plc:aaaaaaaaaaaaaaaaaaaaaaaa'
const NOTHING = 'bafyreigw5bqvbz6m3c3zjpqhxwl4njlnbbnw5xvptbx6dzfxjqcde6lt3y'
const note = 'org.example.note'
const password = 'methods-password-1'
const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64')

// Invites and accounts.
const { code: invite } = await ok('server.createInviteCode', operator, { useCount: 5 })
await no('server.createInviteCode', stranger, { useCount: 5 }, ...OPERATOR)
const { codes } = await ok('server.createInviteCodes', operator, { codeCount: 2, useCount: 1 })
await no('server.createInviteCodes', nobody, { codeCount: 2, useCount: 1 }, ...OPERATOR)
await ok('admin.getInviteCodes', operator, { sort: 'recent' })
await no('admin.getInviteCodes', stranger, {}, ...OPERATOR)
await ok('admin.disableInviteCodes', operator, { codes: codes[0].codes })
await no('admin.disableInviteCodes', stranger, { codes: [] }, ...OPERATOR)
await ok('server.describeServer', nobody, {})
refusing.add(full('server.describeServer')) // to nobody, whatever is asked

async function account(name) {
  const a = await ok('server.createAccount', nobody, { handle: `${name}.test`, email: `${name}@example.org`, password, inviteCode: invite })
  return { did: a.did, handle: a.handle, email: `${name}@example.org`, me: bearer(a.accessJwt), refresh: bearer(a.refreshJwt) }
}
const ana = await account('ana-methods')
const bob = await account('bob-methods')
const eve = await account('eve-methods')
const newcomer = { handle: 'new-methods.test', email: 'new@example.org', password, inviteCode: invite }
await no('server.createAccount', nobody, { ...newcomer, inviteCode: codes[0].codes[0] }, 400, 'InvalidInviteCode')
await no('server.createAccount', nobody, { ...newcomer, handle: ana.handle }, 400, 'HandleNotAvailable')
await no('server.createAccount', nobody, { ...newcomer, handle: 'new.example.org' }, 400, 'UnsupportedDomain')
await no('server.createAccount', nobody, { ...newcomer, handle: 'a_b.test' }, 400, 'InvalidHandle')
await no('server.createAccount', nobody, { ...newcomer, did: NOBODY }, ...AUTH)
await ok('temp.checkHandleAvailability', nobody, { handle: newcomer.handle })
await no('temp.checkHandleAvailability', nobody, { handle: newcomer.handle, email: 'nonsense' }, 400, 'InvalidEmail')
await ok('server.getAccountInviteCodes', ana.me, {})
await no('server.getAccountInviteCodes', nobody, {}, ...AUTH)

// Sessions and app passwords.
const signIn = { identifier: ana.handle, password }
await ok('server.createSession', nobody, signIn)
await no('server.createSession', nobody, { ...signIn, password: 'wrong' }, 401, 'AuthenticationRequired')
await no('server.createSession', nobody, { ...signIn, identifier: 'nobody.test' }, 401, 'AuthenticationRequired')
await ok('server.getSession', ana.me, {})
await no('server.getSession', nobody, {}, ...AUTH)
await no('server.getSession', ana.refresh, {}, 401, 'InvalidToken')
const fresh = await ok('server.refreshSession', ana.refresh)
await no('server.refreshSession', ana.me, undefined, 401, 'InvalidToken')
ana.me = bearer(fresh.accessJwt)
const { password: appPassword } = await ok('server.createAppPassword', ana.me, { name: 'phone' })
await no('server.createAppPassword', ana.me, { name: 'phone' }, 409, 'AppPasswordExists')
const limited = bearer((await ok('server.createSession', nobody, { ...signIn, password: appPassword })).accessJwt)
await no('server.createAppPassword', limited, { name: 'more' }, 403, 'Forbidden')
await ok('server.listAppPasswords', ana.me, {})
await no('server.listAppPasswords', nobody, {}, ...AUTH)
await ok('server.revokeAppPassword', ana.me, { name: 'no such' }) // as the reference: what is not there is revoked
await no('server.revokeAppPassword', limited, { name: 'phone' }, 403, 'Forbidden')
await ok('server.getServiceAuth', ana.me, { aud: city.ledgerDid, lxm: 'org.city-sync.ledger.getBalance' })
await no('server.getServiceAuth', ana.me, { aud: city.ledgerDid, exp: Math.floor(Date.now() / 1000) + 86400 }, 400, 'BadExpiration')
await no('server.getServiceAuth', nobody, { aud: city.ledgerDid }, ...AUTH)

// Records and blobs.
const own = { repo: ana.did, collection: note }
const value = (text) => ({ $type: note, text })
const first = await ok('repo.createRecord', ana.me, { ...own, rkey: 'a', record: value('a') })
await no('repo.createRecord', ana.me, { ...own, rkey: 'a', record: value('a') }, 409, 'RecordAlreadyExists')
await no('repo.createRecord', ana.me, { ...own, repo: bob.did, record: value('a') }, 403, 'Forbidden')
await no('repo.createRecord', ana.me, { repo: ana.did, collection: 'app.bsky.feed.like', record: { $type: 'app.bsky.feed.post' } }, 400, 'InvalidRecord')
await ok('repo.putRecord', ana.me, { ...own, rkey: 'a', record: value('b'), swapRecord: first.cid })
await no('repo.putRecord', ana.me, { ...own, rkey: 'a', record: value('c'), swapRecord: first.cid }, 400, 'InvalidSwap')
await ok('repo.getRecord', nobody, { ...own, rkey: 'a' })
await no('repo.getRecord', nobody, { ...own, rkey: 'b' }, 400, 'RecordNotFound')
await ok('repo.applyWrites', ana.me, { repo: ana.did, writes: [{ $type: 'com.atproto.repo.applyWrites#create', collection: note, rkey: 'b', value: value('b') }] })
await no('repo.applyWrites', ana.me, { repo: ana.did, writes: [{ $type: 'com.atproto.repo.applyWrites#delete', collection: note, rkey: 'z' }] }, 400, 'RecordNotFound')
await ok('repo.deleteRecord', ana.me, { ...own, rkey: 'b' })
await no('repo.deleteRecord', ana.me, { ...own, rkey: 'a', swapRecord: first.cid }, 400, 'InvalidSwap')
await ok('repo.listRecords', nobody, own)
await no('repo.listRecords', nobody, { ...own, repo: NOBODY }, ...GONE)
await ok('repo.describeRepo', nobody, { repo: ana.handle })
await no('repo.describeRepo', nobody, { repo: 'nobody.test' }, ...GONE)
const { blob } = await ok('repo.uploadBlob', ana.me, png, 'image/png')
await no('repo.uploadBlob', nobody, png, ...AUTH, 'image/png')
await no('repo.uploadBlob', ana.me, png.subarray(0, 40), 400, 'InvalidBlob', 'image/png')
const pictured = await ok('repo.putRecord', ana.me, { ...own, rkey: 'p', record: { ...value('p'), blob } })
await no('repo.putRecord', bob.me, { repo: bob.did, collection: note, rkey: 'p', record: { ...value('p'), blob } }, 400, 'BlobNotFound')

// What others read.
const cid = blob.ref.toString()
await ok('sync.getBlob', nobody, { did: ana.did, cid })
await no('sync.getBlob', nobody, { did: bob.did, cid }, 400, 'BlobNotFound')
await ok('sync.listBlobs', nobody, { did: ana.did })
await no('sync.listBlobs', nobody, { did: NOBODY }, ...GONE)
await ok('sync.getBlocks', nobody, { did: ana.did, cids: [pictured.cid] })
await no('sync.getBlocks', nobody, { did: ana.did, cids: [NOTHING] }, 400, 'BlockNotFound')
await ok('sync.getLatestCommit', nobody, { did: ana.did })
await no('sync.getLatestCommit', nobody, { did: NOBODY }, ...GONE)
await ok('sync.getRecord', nobody, { did: ana.did, collection: note, rkey: 'a' })
await no('sync.getRecord', nobody, { did: NOBODY, collection: note, rkey: 'a' }, ...GONE)
const car = await ok('sync.getRepo', nobody, { did: ana.did })
await no('sync.getRepo', nobody, { did: NOBODY }, ...GONE)
await ok('sync.getRepoStatus', nobody, { did: ana.did })
await no('sync.getRepoStatus', nobody, { did: NOBODY }, ...GONE)
await ok('sync.listRepos', nobody, { limit: 2 })
await no('sync.listRepos', nobody, { limit: 5000 }, ...BAD)
const holders = await ok('sync.listReposByCollection', nobody, { collection: note })
assert.ok(holders.repos.some((r) => r.did === ana.did))
await no('sync.listReposByCollection', nobody, { collection: 'nonsense' }, ...BAD)

// Mail.
await ok('server.requestEmailConfirmation', ana.me)
await no('server.requestEmailConfirmation', nobody, undefined, ...AUTH)
const confirm = { email: ana.email, token: await code(ana.email) }
await no('server.confirmEmail', ana.me, { ...confirm, email: 'other@example.org' }, 400, 'InvalidEmail')
await no('server.confirmEmail', ana.me, { ...confirm, token: 'AAAAA-AAAAA' }, 400, 'InvalidToken')
await ok('server.confirmEmail', ana.me, confirm)
assert.equal((await ok('server.requestEmailUpdate', ana.me)).tokenRequired, true)
await no('server.requestEmailUpdate', limited, undefined, 403, 'Forbidden')
await no('server.updateEmail', ana.me, { email: 'ana2@example.org' }, 400, 'TokenRequired')
await no('server.updateEmail', ana.me, { email: 'ana2@example.org', token: 'AAAAA-AAAAA' }, 400, 'InvalidToken')
await ok('server.updateEmail', ana.me, { email: 'ana2@example.org', token: await code(ana.email) })
ana.email = 'ana2@example.org'
await ok('server.requestPasswordReset', nobody, { email: 'nobody@example.org' })
await ok('server.requestPasswordReset', nobody, { email: eve.email })
await no('server.requestPasswordReset', nobody, { email: 'nonsense' }, ...BAD)
await no('server.resetPassword', nobody, { token: 'AAAAA-AAAAA', password }, 400, 'InvalidToken')
await ok('server.resetPassword', nobody, { token: await code(eve.email), password: `${password}!` })
await no('server.getSession', eve.me, {}, 400, 'ExpiredToken')
eve.me = bearer((await ok('server.createSession', nobody, { identifier: eve.handle, password: `${password}!` })).accessJwt)

// Identity.
await ok('identity.resolveHandle', nobody, { handle: ana.handle })
await no('identity.resolveHandle', nobody, { handle: 'nobody.test' }, 400, 'HandleNotFound')
await ok('identity.updateHandle', ana.me, { handle: 'ana-again.test' })
await no('identity.updateHandle', ana.me, { handle: bob.handle }, 400, 'HandleNotAvailable')
await no('identity.updateHandle', ana.me, { handle: 'ana.example.org' }, 400, 'HandleNotFound')
const wanted = await ok('identity.getRecommendedDidCredentials', ana.me, {})
await no('identity.getRecommendedDidCredentials', nobody, {}, ...AUTH)
await ok('identity.requestPlcOperationSignature', ana.me)
await no('identity.requestPlcOperationSignature', limited, undefined, 403, 'Forbidden')
await no('identity.signPlcOperation', ana.me, { ...wanted, token: 'AAAAA-AAAAA' }, 400, 'InvalidToken')
const { operation } = await ok('identity.signPlcOperation', ana.me, { ...wanted, token: await code(ana.email) })
await no('identity.submitPlcOperation', ana.me, { operation: { ...operation, alsoKnownAs: ['at://other.test'] } }, ...BAD)
await no('identity.submitPlcOperation', bob.me, { operation }, ...BAD)
await ok('identity.submitPlcOperation', ana.me, { operation })

// An account rests, takes a repository in, and wakes.
await ok('server.checkAccountStatus', ana.me, {})
await no('server.checkAccountStatus', nobody, {}, ...AUTH)
await no('repo.importRepo', ana.me, car, 400, 'AccountNotDeactivated', 'application/vnd.ipld.car')
await no('server.deactivateAccount', limited, {}, 403, 'Forbidden')
await ok('server.deactivateAccount', ana.me, {})
await no('repo.createRecord', ana.me, { ...own, record: value('z') }, 400, 'RepoDeactivated')
await no('sync.getRepo', nobody, { did: ana.did }, 400, 'RepoDeactivated')
const foreign = await ok('sync.getRepo', nobody, { did: bob.did })
await no('repo.importRepo', ana.me, foreign, 400, 'InvalidRepo', 'application/vnd.ipld.car')
await ok('repo.importRepo', ana.me, car, 'application/vnd.ipld.car')
await ok('repo.listMissingBlobs', ana.me, {})
await no('repo.listMissingBlobs', nobody, {}, ...AUTH)
await no('server.activateAccount', limited, undefined, 403, 'Forbidden')
await ok('server.activateAccount', ana.me)
const back = await readCarWithRoot(await ok('sync.getRepo', nobody, { did: ana.did }))
const head = await ok('sync.getLatestCommit', nobody, { did: ana.did })
assert.deepEqual([back.root.toString(), cborDecode(back.blocks.get(back.root)).did], [head.cid, ana.did])

// Several people for one account.
await ok('org.city-sync.pds.addController', ana.me, { controller: bob.did, role: 'editor' })
await no('org.city-sync.pds.addController', ana.me, { controller: ana.did, role: 'editor' }, 400, 'InvalidController')
await no('org.city-sync.pds.addController', ana.me, { controller: bob.did, role: 'king' }, 400, 'InvalidRole')
await no('org.city-sync.pds.acceptController', eve.me, { account: ana.did }, 400, 'NotInvited')
await ok('org.city-sync.pds.acceptController', bob.me, { account: ana.did })
await ok('org.city-sync.pds.listControllers', ana.me, {})
await no('org.city-sync.pds.listControllers', limited, {}, 403, 'Forbidden')
await ok('org.city-sync.pds.listControlled', bob.me, {})
await no('org.city-sync.pds.listControlled', nobody, {}, ...AUTH)
await ok('org.city-sync.pds.listActs', ana.me, {})
await no('org.city-sync.pds.listActs', nobody, {}, ...AUTH)
await ok('org.city-sync.pds.removeController', ana.me, { controller: bob.did })
await no('org.city-sync.pds.removeController', ana.me, { controller: bob.did }, 400, 'NotController')
await ok('org.city-sync.pds.updateSigningKey', ana.me)
await no('org.city-sync.pds.updateSigningKey', limited, undefined, 403, 'Forbidden')

// Bluesky's app.
const adult = { $type: 'app.bsky.actor.defs#adultContentPref', enabled: false }
await ok('app.bsky.actor.putPreferences', ana.me, { preferences: [adult] })
await no('app.bsky.actor.putPreferences', nobody, { preferences: [adult] }, ...AUTH)
assert.deepEqual((await ok('app.bsky.actor.getPreferences', ana.me, {})).preferences, [adult])
await no('app.bsky.actor.getPreferences', nobody, {}, ...AUTH)

// Operators.
const report = { reasonType: 'com.atproto.moderation.defs#reasonSpam', subject: { $type: 'com.atproto.admin.defs#repoRef', did: eve.did } }
await ok('moderation.createReport', ana.me, report)
await no('moderation.createReport', ana.me, { ...report, reasonType: 'dislike' }, ...BAD)
await no('moderation.createReport', nobody, report, ...AUTH)
for (const [method, input] of [
  ['admin.getAccountInfo', { did: eve.did }],
  ['admin.getAccountInfos', { dids: [eve.did, bob.did] }],
  ['admin.searchAccounts', { email: eve.email }],
  ['admin.getSubjectStatus', { did: eve.did }],
  ['admin.updateAccountHandle', { did: eve.did, handle: 'eve-again.test' }],
  ['admin.updateAccountEmail', { account: eve.did, email: 'eve2@example.org' }],
  ['admin.sendEmail', { recipientDid: eve.did, senderDid: city.city.did, content: 'Hello', subject: 'Hello' }],
  ['admin.updateAccountPassword', { did: eve.did, password }],
  ['admin.updateSubjectStatus', { subject: report.subject, takedown: { applied: true, ref: 'case 1' } }],
]) {
  for (const who of [nobody, stranger, ana.me]) await no(method, who, input, ...OPERATOR)
  await ok(method, operator, input)
}
await no('admin.getAccountInfo', operator, { did: NOBODY }, ...GONE)
await no('admin.updateAccountHandle', operator, { did: eve.did, handle: bob.handle }, 400, 'HandleNotAvailable')
await no('server.createSession', nobody, { identifier: eve.did, password }, 401, 'AccountTakedown')
await no('sync.getRepo', nobody, { did: eve.did }, 400, 'RepoTakendown')
await ok('admin.updateSubjectStatus', operator, { subject: report.subject, takedown: { applied: false } })
await ok('server.createSession', nobody, { identifier: eve.did, password })
await no('temp.revokeAccountCredentials', stranger, { account: eve.did }, ...OPERATOR)
await ok('temp.revokeAccountCredentials', operator, { account: eve.did })
await no('admin.deleteAccount', stranger, { did: eve.did }, ...OPERATOR)
await ok('admin.deleteAccount', operator, { did: eve.did })
await no('admin.deleteAccount', operator, { did: eve.did }, ...GONE)

// The end.
await ok('server.requestAccountDelete', bob.me)
await no('server.requestAccountDelete', nobody, undefined, ...AUTH)
const end = { did: bob.did, password, token: await code(bob.email) }
await no('server.deleteAccount', nobody, { ...end, password: 'wrong' }, 401, 'AuthenticationRequired')
await no('server.deleteAccount', nobody, { ...end, token: 'AAAAA-AAAAA' }, 400, 'InvalidToken')
await ok('server.deleteAccount', nobody, end)
await no('sync.getRepoStatus', nobody, { did: bob.did }, ...GONE)
await ok('server.deleteSession', bearer(fresh.refreshJwt))
await no('server.deleteSession', nobody, undefined, ...AUTH)

const elsewhere = { 'com.atproto.sync.subscribeRepos': 'firehose.mjs' }
const table = [...readFileSync(readme, 'utf8').matchAll(/^\| `([a-z]+\.[\w.-]+)` \| yes \|/gm)].map((m) => m[1]).filter((m) => !elsewhere[m])
const missing = table.flatMap((m) => [served.has(m) ? [] : `${m} was not asked`, refusing.has(m) ? [] : `${m} refused nothing`].flat())
if (wrong.length + missing.length > 0) fail([...wrong, ...missing].join('\n'))
assert.ok(table.length > 70, `${table.length} methods in the README`)
console.error(`${table.length} methods answered and refused`)
