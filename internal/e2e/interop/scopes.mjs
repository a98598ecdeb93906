// @atproto/oauth-scopes on our permission sets and scopes: what a set expands to, the form of each
// word, and what it allows. Standard input is JSON: how our own code sees the same. Argument: the folder
// lexicons.
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { IncludeScope, ScopePermissionsTransition, normalizeAtprotoOauthScopeValue } from '@atproto/oauth-scopes'

const folder = process.argv[2]
const ours = JSON.parse(readFileSync(0, 'utf8')) // {sets: {include: [words]}, words: {word: form}, answers: [{scope, ask, with, allowed}]}

const sets = new Map()
for (const file of globSync('org/city-sync/auth*.json', { cwd: folder })) {
  const doc = JSON.parse(readFileSync(join(folder, file), 'utf8'))
  sets.set(doc.id, doc.defs.main)
}

const seen = new Set()
for (const [include, words] of Object.entries(ours.sets)) {
  const scope = IncludeScope.fromString(include)
  assert.ok(scope, include)
  const set = sets.get(scope.nsid)
  assert.ok(set, `${scope.nsid} is a schema`)
  assert.deepEqual(words, scope.toScopes(set), include)
  assert.equal(scope.toString(), include, 'an include has one form')
  if (scope.aud) assert.equal(words.length, set.permissions.length, `nothing of ${include} is dropped`)
  seen.add(scope.nsid)
}
assert.deepEqual([...seen].sort(), [...sets.keys()].sort(), 'every set was expanded')

for (const [word, form] of Object.entries(ours.words)) {
  assert.equal(form, normalizeAtprotoOauthScopeValue(word), word)
}

for (const { scope, ask, with: options, allowed } of ours.answers) {
  assert.equal(new ScopePermissionsTransition(scope)[ask](options), allowed, `${scope}: ${ask} ${JSON.stringify(options)}`)
}
console.error(
  `${Object.keys(ours.sets).length} includes of ${sets.size} sets, ${Object.keys(ours.words).length} words and ${ours.answers.length} questions agree`,
)
